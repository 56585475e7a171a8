"""Camera pictures from MuJoCo, made the same way for demos and for rollouts; runs inside a worker."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from simulators.errors import SimulatorError
from simulators.frustum import geoms_in_view
from simulators.messages import Images
from simulators.mujoco_types import MjData, MjModel

GL_LIBRARIES = {"egl": ("libEGL.so.1",), "osmesa": ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")}
GL_ADVICE = (
    "install the system packages libegl1, libegl-mesa0 and libgl1-mesa-dri (software OpenGL, no display needed), "
    "or libosmesa6 with `gl: osmesa`."
)

HIDDEN_GROUP = 0
"""Geoms of this group are not drawn: the robosuite family keeps its collision geometry there."""


def choose_gl(wanted: str | None) -> str:
    """Set MUJOCO_GL before mujoco is imported: `wanted`, else what the environment says, else EGL, else OSMesa.

    Raises:
        SimulatorError: If the backend's library is not on this machine.
    """
    chosen = wanted or os.environ.get("MUJOCO_GL", "")
    candidates = [chosen] if chosen else list(GL_LIBRARIES)
    for backend in candidates:
        if backend not in GL_LIBRARIES or any(_loads(library) for library in GL_LIBRARIES[backend]):
            os.environ["MUJOCO_GL"] = backend
            os.environ.pop("PYOPENGL_PLATFORM", None)  # mujoco sets its own; one inherited from a parent may disagree
            return backend
    raise SimulatorError(f"no OpenGL for rendering: {' or '.join(candidates)} was not found; {GL_ADVICE}")


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def check_gl() -> None:
    """Draw one small picture.

    Raises:
        SimulatorError: If no GL context can be made; names the packages to install.
    """
    scene = '<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size="1"/></worldbody></mujoco>'
    try:
        import mujoco

        model = mujoco.MjModel.from_xml_string(scene)
        renderer = mujoco.Renderer(model, 16, 16)
        renderer.update_scene(mujoco.MjData(model))
        renderer.render()
        renderer.close()
    except Exception as error:  # every backend fails in its own way
        backend = os.environ.get("MUJOCO_GL")
        raise SimulatorError(f"OpenGL backend {backend!r} does not work here ({error}); {GL_ADVICE}") from error


def gl_renderer() -> str:
    """What draws the pictures, in the driver's words, for instance `llvmpipe (LLVM 15.0.6, 256 bits), OpenGL 4.5`."""
    import mujoco
    from OpenGL import GL

    context = mujoco.GLContext(16, 16)
    context.make_current()
    name, version = (GL.glGetString(key).decode() for key in (GL.GL_RENDERER, GL.GL_VERSION))
    context.free()
    return f"{name}, OpenGL {version.split()[0]}"


class CameraRenderer:
    """Draw a model's cameras into a framebuffer of picture size.

    Shadows, reflections and multisampling cost half of the time and more with software GL and are off by default.
    Collision geometry (group 0 in the robosuite family) is hidden. Without shadows and reflections, geoms outside a
    camera's view are left out too: the picture is the same to the pixel, and software GL spends its time on the
    meshes' corners, wherever they are.

    Args:
        model: The raw `mujoco.MjModel`; its visual quality settings are changed.
        cameras: Names of cameras in the model.
        image_size: Height and width in pixels.
        shadows: Draw shadows.
        reflections: Draw reflections.
        multisampling: Samples a pixel.

    Attributes:
        only_visible: Leave out what is outside the view.
    """

    def __init__(
        self,
        model: MjModel,
        cameras: Sequence[str],
        image_size: int,
        shadows: bool = False,
        reflections: bool = False,
        multisampling: int = 0,
    ) -> None:
        import mujoco

        found = [mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_CAMERA, i) for i in range(model.ncam)]
        if missing := [name for name in cameras if name not in found]:
            raise SimulatorError(f"no camera {missing}; this task has {sorted(found)}. Set `cameras` to some of these.")
        self.model = model
        self.cameras = tuple(cameras)
        model.vis.global_.offwidth = model.vis.global_.offheight = image_size
        model.vis.quality.offsamples = multisampling
        if not shadows:
            model.vis.quality.shadowsize = 0  # no shadow map is allocated
        self.only_visible = not (shadows or reflections)  # both show what is outside the view
        self._options = mujoco.MjvOption()
        self._options.geomgroup[HIDDEN_GROUP] = 0
        self._renderer = mujoco.Renderer(model, image_size, image_size)
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = int(shadows)
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = int(reflections)

    def __call__(self, data: MjData) -> Images:
        """Pictures of `data` (call `refresh` first), camera -> uint8 (H, W, 3), upright."""
        pictures = {}
        for camera in self.cameras:
            self._renderer.update_scene(data, camera, self._options)
            if self.only_visible:
                self._leave_out_unseen(data, camera)
            pictures[camera] = self._renderer.render()
        return pictures

    def _leave_out_unseen(self, data: MjData, camera: str) -> None:
        """Make the scene again with the geoms outside the view in the hidden group."""
        import mujoco

        eyes = self._renderer.scene.camera  # a left and a right one; what is drawn is the view from between them
        seen = geoms_in_view(self.model, data, mujoco.mjv_averageCamera(eyes[0], eyes[1]))
        groups = self.model.geom_group.copy()
        self.model.geom_group[~seen] = HIDDEN_GROUP
        self._renderer.update_scene(data, camera, self._options)
        self.model.geom_group[:] = groups

    def close(self) -> None:
        """Free the GL context."""
        self._renderer.close()


def refresh(model: MjModel, data: MjData) -> None:
    """Bring body, camera and light poses up to the joint positions.

    After `mj_step` they are one substep old. Only position stages run, so the solver's warm start, and with it the
    physics that follows, is left as it was: looking does not change an episode.
    """
    import mujoco

    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
