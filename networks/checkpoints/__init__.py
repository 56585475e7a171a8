"""Checkpoints of ours, of diffusers and of the published code: reading, renaming keys, checking shapes."""
