"""The physics of robosuite 1.4 without what it computes two or three times; runs inside a worker.

A control step of robosuite 1.4 has 25 substeps. In each, the environment updates the whole model, the arm's controller
updates it again, and `mj_step` does so a third time, although nothing has moved in between. Here positions and
velocities are computed once a substep (`mj_step1`) and forces once, with the new torques (`mj_step2`). MuJoCo defines
`mj_step` as these two halves, so every number stays as it was, to the last bit; force and torque sensors, which no
controller and no task here reads, are one substep old while a substep is under way.

robosuite 1.5 does the same by itself (`lite_physics`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from simulators.mujoco_types import Environment, MjData, MjModel


@contextmanager
def computed_once(env: Environment) -> Iterator[None]:
    """While it lasts, `env.step` computes positions and velocities once a substep.

    Nothing is changed where it would not be exact or not help: with the Runge-Kutta integrator, which has no two
    halves, and in robosuite 1.5.
    """
    import mujoco

    sim = env.sim
    model, data = sim.model._model, sim.data._data
    if hasattr(sim, "step1") or model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4:
        yield
        return
    halves = _Halves(model, data, int(env.control_timestep / env.model_timestep))
    sim.forward, sim.step = halves.forward, halves.step  # of this object; its class keeps its own
    try:
        yield
    finally:
        del sim.forward, sim.step


class _Halves:
    """`forward` and `step` of robosuite's `MjSim` for the substeps of one control step."""

    def __init__(self, model: MjModel, data: MjData, num_substeps: int) -> None:
        import mujoco

        self._mujoco = mujoco
        self._model = model
        self._data = data
        self._left = num_substeps
        self._updated = False  # positions and velocities belong to the current state

    def forward(self) -> None:
        """The first half, unless it is done; after the last substep the whole update, as somebody wants to look."""
        if self._left == 0:
            self._mujoco.mj_forward(self._model, self._data)
        elif not self._updated:
            self._mujoco.mj_step1(self._model, self._data)
            self._updated = True

    def step(self, with_udd: bool = True) -> None:
        """The second half, or all of a step where nobody asked for the first."""
        advance = self._mujoco.mj_step2 if self._updated else self._mujoco.mj_step
        advance(self._model, self._data)
        self._updated = False
        self._left = max(self._left - 1, 0)
