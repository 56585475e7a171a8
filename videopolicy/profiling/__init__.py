"""What a stage costs: counted on shapes, and timed on this machine."""
