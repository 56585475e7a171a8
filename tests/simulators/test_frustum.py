"""Geoms outside a camera's view: none that shows is left out, and most that do not are."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.frustum import geoms_in_view
from simulators.rendering import CameraRenderer, choose_gl

pytestmark = pytest.mark.simulator

NUM_BOXES = 200


def scene(seed: int) -> str:
    """Boxes and balls all around two cameras, and a floor."""
    rng = np.random.default_rng(seed)
    geoms = "".join(
        f'<geom group="1" type="{"box" if index % 2 else "sphere"}" size="{a:.3f} {b:.3f} {c:.3f}" '
        f'pos="{x:.3f} {y:.3f} {z:.3f}" euler="{40 * x:.1f} {50 * y:.1f} 20" '
        f'rgba="{2 * a:.2f} {2 * b:.2f} {2 * c:.2f} 1"/>'
        for index, (a, b, c, x, y, z) in enumerate(
            np.hstack([rng.uniform(0.05, 0.5, (NUM_BOXES, 3)), rng.uniform(-4, 4, (NUM_BOXES, 3))])
        )
    )
    return f"""<mujoco><worldbody><light pos="0 0 6" dir="0 0 -1"/>
      <camera name="wide" pos="0 -2 0" xyaxes="1 0 0 0 0.2 1" fovy="75"/>
      <camera name="narrow" pos="1 1 1" xyaxes="0 1 0 -1 0 1" fovy="30"/>
      <geom group="1" type="plane" size="0 0 1" pos="0 0 -4" rgba=".3 .3 .3 1"/>{geoms}</worldbody></mujoco>"""


@pytest.mark.parametrize("seed", [0, 1])
def test_pictures_without_the_unseen_geoms_are_the_same_to_the_pixel(seed: int) -> None:
    choose_gl(None)
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_string(scene(seed))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    groups = model.geom_group.copy()
    renderer = CameraRenderer(model, ["wide", "narrow"], 48)
    fewer = renderer(data)
    drawn = renderer._renderer.scene.ngeom
    renderer.only_visible = False
    every = renderer(data)
    renderer.close()
    for camera, picture in every.items():
        np.testing.assert_array_equal(fewer[camera], picture)
        assert len(np.unique(picture)) > 20, "the camera sees several things"
    assert drawn < NUM_BOXES / 5  # what the narrow camera is left with
    np.testing.assert_array_equal(model.geom_group, groups)


def test_a_view_that_is_no_plain_pinhole_keeps_every_geom() -> None:
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_string(scene(0))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = mujoco.MjvGLCamera()
    camera.forward[:], camera.up[:], camera.frustum_near = [0, 1, 0], [0, 0, 1], 0.01
    camera.frustum_top, camera.frustum_bottom = 0.005, -0.005
    assert geoms_in_view(model, data, camera).sum() < NUM_BOXES / 2
    camera.orthographic = 1
    assert geoms_in_view(model, data, camera).all()


def test_shadows_and_reflections_keep_every_geom_in_the_scene() -> None:
    choose_gl(None)
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_string(scene(0))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = CameraRenderer(model, ["narrow"], 16, shadows=True)
    renderer(data)
    assert renderer._renderer.scene.ngeom >= NUM_BOXES
    renderer.close()
