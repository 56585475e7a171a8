"""Published checkpoints into ours and back: names, shapes, files."""
