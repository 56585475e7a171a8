"""What pictures are drawn from, so that a varied episode can give it back: colours, lights and cameras of a model."""

from __future__ import annotations

from simulators.messages import Array
from simulators.mujoco_types import MjModel

ARRAYS = (
    "geom_rgba",
    "light_pos",
    "light_dir",
    "light_diffuse",
    "light_ambient",
    "light_specular",
    "cam_pos",
    "cam_quat",
)
HEADLIGHT = ("ambient", "diffuse", "specular")


class StandardLook:
    """A copy of everything that `appearance.py` and `camera.py` change; none of it takes part in the physics.

    Args:
        model: The raw `mujoco.MjModel`, not varied yet.
    """

    def __init__(self, model: MjModel) -> None:
        self.model = model
        self._arrays: dict[str, Array] = {name: getattr(model, name).copy() for name in ARRAYS}
        self._headlight: dict[str, Array] = {name: getattr(model.vis.headlight, name).copy() for name in HEADLIGHT}

    def restore(self) -> None:
        """Put everything back, bit for bit."""
        for name, values in self._arrays.items():
            getattr(self.model, name)[:] = values
        for name, values in self._headlight.items():
            getattr(self.model.vis.headlight, name)[:] = values
