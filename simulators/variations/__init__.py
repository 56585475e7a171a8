"""Growing variation of position, appearance, camera and instruction, around the standard episode."""

from simulators.variations.kinds import KINDS, read_variation, require_variable, variation_rng

__all__ = ["KINDS", "read_variation", "require_variable", "variation_rng"]
