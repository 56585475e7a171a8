"""How well a video network films: measured on held-out demos, with its controls."""
