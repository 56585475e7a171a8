from __future__ import annotations

import numpy as np
import pytest

from rollouts.worker_process import check_simulator
from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError
from simulators.rendering import CameraRenderer, check_gl, choose_gl, refresh

SCENE = """
<mujoco>
  <worldbody>
    <light pos="0 0 3" dir="0 0 -1"/>
    <camera name="front" pos="0 -2 0" xyaxes="1 0 0 0 0 1" fovy="45"/>
    <body name="ball" pos="-0.3 0 0.5"><freejoint/><geom group="1" type="sphere" size=".1" rgba="1 0 0 1"/></body>
    <geom group="0" type="box" size=".2 .2 .2" pos="0.5 0 -0.5" rgba="0 1 0 1"/>
  </worldbody>
</mujoco>
"""


@pytest.fixture
def ball() -> tuple[object, object]:
    choose_gl(None)
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


@pytest.mark.simulator
def test_pictures_are_upright_and_collision_geometry_is_hidden(ball: tuple[object, object]) -> None:
    """The red ball hangs up left of the camera; the green box is in group 0."""
    renderer = CameraRenderer(*ball[:1], cameras=["front"], image_size=64)
    picture = renderer(ball[1])["front"].astype(int)
    renderer.close()
    red = (picture[..., 0] > 60) & (picture[..., 1] < 40)
    rows, columns = np.nonzero(red)
    # pinhole: 32 px / tan(22.5 deg) per metre at 1 m; the ball is 2 m away
    scale = 32 / np.tan(np.radians(22.5)) / 2
    assert rows.mean() == pytest.approx(32 - 0.5 * scale, abs=1.5)
    assert columns.mean() == pytest.approx(32 - 0.3 * scale, abs=1.5)
    assert not ((picture[..., 1] > 60) & (picture[..., 0] < 40)).any()


@pytest.mark.simulator
def test_refresh_moves_the_picture_to_the_joint_positions_and_leaves_the_solver_alone(
    ball: tuple[object, object],
) -> None:
    model, data = ball
    warm_start = data.qacc_warmstart.copy()  # type: ignore[attr-defined]
    data.qpos[0] = 0.4  # type: ignore[attr-defined]
    refresh(model, data)
    assert data.xpos[1][0] == 0.4  # type: ignore[attr-defined]
    np.testing.assert_array_equal(data.qacc_warmstart, warm_start)  # type: ignore[attr-defined]


@pytest.mark.simulator
def test_a_missing_camera_lists_those_there_are(ball: tuple[object, object]) -> None:
    with pytest.raises(SimulatorError, match=r"no camera \['back'\]; this task has \['front'\]"):
        CameraRenderer(ball[0], ["front", "back"], 16)


@pytest.mark.simulator
def test_gl_that_works_passes_the_check() -> None:
    choose_gl(None)
    check_gl()


def test_missing_gl_libraries_name_the_packages_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr("simulators.rendering._loads", lambda library: False)
    with pytest.raises(SimulatorError, match=r"egl or osmesa was not found; install .*libegl1, libegl-mesa0"):
        choose_gl(None)


def test_the_configured_backend_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr("simulators.rendering._loads", lambda library: True)
    assert choose_gl("osmesa") == "osmesa"
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert choose_gl(None) == "egl"


@pytest.mark.simulator
def test_a_backend_that_is_not_there_is_found_before_any_rollout() -> None:
    config = SimulatorConfig("robosuite", ["Lift"], ["agentview"], gl="osmesa")
    try:
        check_simulator(config)
    except SimulatorError as error:
        assert "libosmesa6" in str(error)  # noqa: PT017 - a machine with OSMesa passes
