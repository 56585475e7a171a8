"""The `lightning` command in parts: experiment files, run directories and one run a stage."""
