"""Studies: many runs of experiments, their statistics and pictures."""
