"""The commands `lightning` and `videopolicy`: experiments, evaluation, reports."""
