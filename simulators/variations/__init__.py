"""Growing variation of position, appearance, camera and instruction, around the standard episode."""

from simulators.variations.appearance import vary_appearance
from simulators.variations.camera import external_cameras, vary_cameras
from simulators.variations.displacement import displace_objects
from simulators.variations.instruction import paraphrase, reworded
from simulators.variations.kinds import KINDS, read_variation, require_variable, variation_rng
from simulators.variations.look import StandardLook
from simulators.variations.placement import grown_placement, require_room

__all__ = [
    "KINDS",
    "StandardLook",
    "displace_objects",
    "external_cameras",
    "grown_placement",
    "paraphrase",
    "read_variation",
    "require_room",
    "require_variable",
    "reworded",
    "variation_rng",
    "vary_appearance",
    "vary_cameras",
]
