"""videopolicy."""
