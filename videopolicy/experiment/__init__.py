"""The `lightning` command in parts: experiment files, run directories and one LightningCLI a stage."""
