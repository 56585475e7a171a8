"""What a demo file is and where its layout keeps images, instructions and task names; one reader class a layout.

All hold ``data/demo_N/{actions, obs/...}``. They differ in camera keys, in where the instruction stands, in which way
up the images are, and in whether a picture was taken before or after the action beside it. ``detect_reader`` is the one
place that decides which layout a file is in, by its attributes and keys.
"""

from __future__ import annotations

import re
import warnings
from abc import ABC
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import h5py
import numpy as np
import numpy.typing as npt

from datamodules.hdf5 import READ_ERRORS, read_json_attribute, text_of, why_not_read, words_of
from datamodules.pictures import EncodedPictures, Orientation, are_pictures, as_pictures
from files.errors import UserError

LayoutName = Literal["robomimic", "robocasa", "libero"]
PictureTiming = Literal["before_action", "after_action"]
CONVENTIONS: Mapping[str, Orientation] = {"opengl": "flip_vertical", "opencv": "upright"}  # robosuite's macro
_SUFFIX = re.compile(r"(?<=[^_])(_rgb|_image)?(_jpe?g|_png)?$")
_ENDINGS = tuple(kind + code for kind in ("_image", "_rgb", "") for code in ("", "_jpeg", "_jpg", "_png"))
_LIBERO_KEYS = re.compile(r"(agentview|eye_in_hand)_rgb(_jpe?g|_png)?$")
_ROBOCASA_KEYS = re.compile(r"robot0_\w+_rgb(_jpe?g|_png)?$")
_LIBERO_VECTORS = {
    "robot0_eef_pos": "ee_pos",
    "robot0_eef_quat": "ee_ori",
    "robot0_gripper_qpos": "gripper_states",
    "robot0_joint_pos": "joint_states",
}
_WORDS = ("instruction", "task_description", "language_instruction")  # attributes of a demo, or of all
_SCENE = re.compile(r"^[A-Z_]+_SCENE\d+_")


class DemoReader(ABC):
    """What one layout means; holds no file, so it pickles freely.

    Attributes:
        name: The layout's name.
        title: How messages call it.
        data_module: The data module that reads it.
        default_cameras: The cameras that this module reads by default, the lead camera first.
        default_action_dims: The action numbers that it uses by default; None for all.
    """

    name: ClassVar[LayoutName]
    title: ClassVar[str]
    data_module: ClassVar[str]
    default_cameras: ClassVar[tuple[str, ...]]
    default_action_dims: ClassVar[tuple[int, ...] | None] = None

    def keys_by_camera(self, demo: h5py.Group) -> dict[str, str]:
        """Cameras that a demo has images of, and their keys under ``obs``: named as images, or holding some."""
        keys = [
            key for key in _obs(demo) if key.endswith(("_image", "_rgb")) or are_pictures(_member(demo, f"obs/{key}"))
        ]
        cameras = sorted({self._camera(_SUFFIX.sub("", key)) for key in keys})
        return {camera: key for camera in cameras if (key := self.image_key(demo, camera)) is not None}

    def image_key(self, demo: h5py.Group, camera: str) -> str | None:
        """Key under ``obs`` of a camera's images; a camera may also be named by the key itself."""
        obs = _obs(demo)
        return next((key for end in _ENDINGS if (key := self._stored(camera) + end) in obs), None)

    def pictures(self, demo: h5py.Group, camera: str) -> h5py.Dataset | EncodedPictures:
        """A camera's images, to be read like an array (T, H, W, 3).

        Raises:
            KeyError: The demo has none.
        """
        if (key := self.image_key(demo, camera)) is None:
            raise KeyError(f"no camera {camera}")
        return as_pictures(demo["obs"][key])

    def proprio_key(self, key: str) -> str:
        """Key under ``obs`` at which a vector of robosuite's name is stored."""
        return key

    def proprio(self, demo: h5py.Group, key: str, steps: slice) -> npt.NDArray[np.float64]:
        """A vector of the robot at some steps (T, n)."""
        return np.asarray(demo["obs"][self.proprio_key(key)][steps], dtype=np.float64)

    def task(self, file: h5py.File) -> str:
        """Name of the task, from the environment's name or else the file's."""
        name = read_json_attribute(file["data"], "env_args").get("env_name")
        return str(name) if name else Path(file.filename).stem

    def instruction(self, demo: h5py.Group) -> str | None:
        """What the robot was told, from wherever a file may say it; None if it does not."""
        data = demo.parent
        found = (
            read_json_attribute(demo, "ep_meta").get("lang"),
            *(demo.attrs.get(name) for name in _WORDS),
            read_json_attribute(data, "env_args").get("instruction"),
            read_json_attribute(data, "problem_info").get("language_instruction"),
            *(data.attrs.get(name) for name in _WORDS),
        )
        return next((words for value in found if value is not None and (words := words_of(value))), None)

    def orientation(self, file: h5py.File) -> Orientation:
        """How the file's images are stored: what the attribute ``macros_image_convention`` says, or else the layout."""
        usual = self._usual_orientation(file)
        said = text_of(file["data"].attrs.get("macros_image_convention", "")).lower()
        return CONVENTIONS.get(said, usual)

    def orientation_doubt(self, file: h5py.File) -> str | None:
        """Why the orientation should be looked at, if it should."""
        usual, found = self._usual_orientation(file), self.orientation(file)
        said = text_of(file["data"].attrs.get("macros_image_convention", ""))
        if said and said.lower() not in CONVENTIONS:
            return f"the attribute macros_image_convention is {said!r}, not one of {list(CONVENTIONS)}; it is ignored."
        if found != usual:
            return (
                f"the attribute macros_image_convention says that its pictures are stored {found}, where the "
                f"{self.title} layout stores them {usual}; the attribute is followed, so look at `videopolicy inspect "
                "--contact-sheet` and set data.init_args.orientation if they stand on their head."
            )
        return None

    def picture_timing(self, file: h5py.File) -> PictureTiming:
        """Whether the picture of a step was taken before its action, as a policy sees it, or after it."""
        return "before_action"

    def _usual_orientation(self, file: h5py.File) -> Orientation:
        return "upright"

    def _camera(self, stored: str) -> str:
        return stored

    def _stored(self, camera: str) -> str:
        return camera


class RobomimicReader(DemoReader):
    """robosuite demos as robomimic stores them: ``obs/<camera>_image``, upright, taken before the action.

    The instruction is the demo's attribute ``instruction`` or the one in ``data``'s ``env_args`` (both
    written by ``videopolicy collect``); robomimic's own files have none.
    """

    name = "robomimic"
    title = "robosuite/robomimic"
    data_module = "RobosuiteDataModule"
    default_cameras = ("agentview", "robot0_eye_in_hand")


class RoboCasaReader(DemoReader):
    """RoboCasa v0.2: ``obs/<camera>_image``, upright; instruction in the demo's ``ep_meta`` (JSON, "lang").

    Files re-rendered for Cosmos Policy are read too: ``obs/<camera>_rgb`` or ``_rgb_jpeg``, the instruction in the
    demo's ``task_description``, pictures as the simulator renders them.
    """

    name = "robocasa"
    title = "RoboCasa v0.2"
    data_module = "RoboCasaDataModule"
    default_cameras = ("robot0_eye_in_hand", "robot0_agentview_left", "robot0_agentview_right")
    default_action_dims = (0, 1, 2, 3, 4, 5, 6)

    def _usual_orientation(self, file: h5py.File) -> Orientation:
        return "flip_vertical" if _is_rerendered(_pictured_demo(file)) else "upright"

    def orientation_doubt(self, file: h5py.File) -> str | None:
        """Nothing in a re-rendered file says which way up it is."""
        if _is_rerendered(_pictured_demo(file)) and "macros_image_convention" not in file["data"].attrs:
            return (
                "nothing in it says which way up its pictures are; they are taken to be upside down, as the simulator "
                "renders them, so look at `videopolicy inspect --contact-sheet` and set data.init_args.orientation."
            )
        return super().orientation_doubt(file)


class LiberoReader(DemoReader):
    """LIBERO demos: ``obs/agentview_rgb`` and ``obs/eye_in_hand_rgb`` (or ``_jpeg``), one task a file, upside down.

    Cameras and vectors go by their simulator names: ``robot0_eye_in_hand`` is stored without the ``robot0_``, and
    ``robot0_eef_quat`` as axis times angle (LIBERO's script, robosuite's `quat2axisangle`).
    """

    name = "libero"
    title = "LIBERO"
    data_module = "LiberoDataModule"
    default_cameras = ("agentview", "robot0_eye_in_hand")

    def task(self, file: h5py.File) -> str:
        """The file's name; ``env_name`` is the scene, which several tasks share."""
        return Path(file.filename).stem.removesuffix("_demo")

    def instruction(self, demo: h5py.Group) -> str | None:
        """What the file says, or else the words of its name, which is how LIBERO itself names its demo files."""
        name = Path(demo.file.filename).stem
        if (words := super().instruction(demo)) is not None or not name.endswith("_demo"):
            return words
        words = _SCENE.sub("", name.removesuffix("_demo")).replace("_", " ").strip()
        return words if " " in words else None

    def proprio_key(self, key: str) -> str:
        """LIBERO's own names of the vectors that robosuite names otherwise."""
        return _LIBERO_VECTORS.get(key, key)

    def proprio(self, demo: h5py.Group, key: str, steps: slice) -> npt.NDArray[np.float64]:
        """See `DemoReader.proprio`."""
        rows = super().proprio(demo, key, steps)
        return _quaternions(rows) if self.proprio_key(key) == "ee_ori" and key != "ee_ori" else rows

    def picture_timing(self, file: h5py.File) -> PictureTiming:
        """After it in official demos (LIBERO steps, then stores), before it in those that OpenVLA's script regenerated.

        The recorded joints decide where they are there: ``states[t]`` is before action t, ``obs/joint_states`` goes
        with the picture. Else the attributes do, which regenerated files lack.
        """
        official = any(name in file["data"].attrs for name in ("problem_info", "bddl_file_name"))
        by_attributes: PictureTiming = "after_action" if official else "before_action"
        return _timing_by_joints(_pictured_demo(file)) or by_attributes

    def _usual_orientation(self, file: h5py.File) -> Orientation:
        return "flip_vertical"

    def _camera(self, stored: str) -> str:
        return "robot0_eye_in_hand" if stored == "eye_in_hand" else stored

    def _stored(self, camera: str) -> str:
        return camera.removeprefix("robot0_")


READERS: Mapping[LayoutName, type[DemoReader]] = {
    "robomimic": RobomimicReader,
    "robocasa": RoboCasaReader,
    "libero": LiberoReader,
}


def detect_reader(file: h5py.File) -> DemoReader | None:
    """The reader of a file's layout, by what it holds; None if it holds no camera images and no layout's attributes."""
    if not demo_names(file):
        return None
    demo = _pictured_demo(file)
    keys = list(_obs(demo))
    if "lang" in read_json_attribute(demo, "ep_meta") or _is_rerendered(demo):
        return RoboCasaReader()
    named_image = any(key.endswith("_image") for key in keys)
    if any(map(_LIBERO_KEYS.match, keys)) or ("problem_info" in file["data"].attrs and not named_image):
        return LiberoReader()
    return RobomimicReader() if RobomimicReader().keys_by_camera(demo) else None


def require_layout(file: h5py.File, reader: DemoReader) -> None:
    """Fail at set-up if a file is in another layout than the data module expects.

    Raises:
        UserError: Saying which layout it looks like and which data module reads that.
    """
    found = detect_reader(file)
    if found is None:
        raise UserError(f"{file.filename}: {unknown_layout(file)}")
    if found.name != reader.name:
        raise UserError(
            f"{file.filename}: this looks like the {found.title} layout, not {reader.title}; "
            f"use {found.data_module} for it."
        )


def unknown_layout(file: h5py.File) -> str:
    """What a file holds whose layout is none of the three."""
    if not demo_names(file):
        return (
            f"no demo under 'data' (expected data/demo_0, ...; found {sorted(file['data'])[:5]}); collect some first."
        )
    return no_images(_pictured_demo(file))


def no_images(demo: h5py.Group) -> str:
    """That a demo has no camera images, what it has instead, and what to do."""
    keys = f"obs has {sorted(_obs(demo))}" if "obs" in demo else f"no group obs, only {sorted(demo)}"
    return f"no camera images ({keys}); render them from the recorded states into the file first."


def demo_names(file: h5py.File) -> list[str]:
    """Names of the demos in the order of their numbers: groups called ``demo_N``, and others with actions."""
    data = file["data"]
    names = [name for name in map(str, data) if re.fullmatch(r"demo_?\d+", name) or _has_actions(data, name)]
    return sorted(names, key=lambda name: (int(digits) if (digits := name.rpartition("_")[2]).isdigit() else -1, name))


def demo_group(file: h5py.File, name: str) -> h5py.Group:
    """A demo of a file.

    Raises:
        UserError: It is no group, or a link to nothing.
    """
    try:
        group = file["data"][name]
    except READ_ERRORS as error:
        raise UserError(f"{file.filename} {name}: {why_not_read(file['data'], name, error)}.") from None
    if not isinstance(group, h5py.Group):
        raise UserError(f"{file.filename} {name}: not a group of actions and obs; remove it from the file.")
    return group


def masked_names(file: h5py.File, filter_key: str) -> list[str]:
    """Names of the demos listed under ``mask/<filter_key>``, in the order of their numbers.

    Raises:
        UserError: There is no such key, it does not hold names, or none of a demo that is there.
    """
    masks = file.get("mask", {})
    if filter_key not in masks:
        raise UserError(
            f"{file.filename}: no filter key {filter_key!r}; the file has {sorted(masks)}. "
            "Set filter_key to one of these."
        )
    where = f"{file.filename}: mask/{filter_key}"
    mask, there = masks[filter_key], demo_names(file)
    if not isinstance(mask, h5py.Dataset) or mask.dtype.kind not in "OSU":
        found = f"{mask.dtype} values" if isinstance(mask, h5py.Dataset) else "a group"
        raise UserError(f"{where} holds {found}; names are expected, such as {there[:2]}, so write it again.")
    wanted = [text_of(name) for name in np.atleast_1d(mask[()])]
    if not (chosen := [name for name in there if name in wanted]):
        raise UserError(f"{where} names {wanted[:5]}, but the file has {there[:5]}; write it with names of demos.")
    if missing := [name for name in wanted if name not in there]:
        warnings.warn(f"{where} names {missing}, which the file does not have; they are left out.", stacklevel=2)
    return chosen


def _obs(demo: h5py.Group) -> Any:  # noqa: ANN401 - an h5py group or nothing
    obs = _member(demo, "obs")
    return obs if isinstance(obs, h5py.Group) else {}


def _member(group: h5py.Group, key: str) -> Any:  # noqa: ANN401 - an h5py object
    """What stands under a key, or None if nothing can be opened there."""
    try:
        return group[key]
    except READ_ERRORS:
        return None


def _has_actions(data: h5py.Group, name: str) -> bool:
    group = _member(data, name)
    return isinstance(group, h5py.Group) and "actions" in group


def _pictured_demo(file: h5py.File) -> h5py.Group:
    """The first demo that has images, else the first that can be opened."""
    names = demo_names(file)
    demos = [demo for name in names if isinstance(demo := _member(file["data"], name), h5py.Group)]
    reader = RobomimicReader()
    if not demos:
        return demo_group(file, names[0])
    return next((demo for demo in demos if reader.keys_by_camera(demo)), demos[0])


def _is_rerendered(demo: h5py.Group) -> bool:
    """A RoboCasa file in the keys that Cosmos Policy's script gives it."""
    keys = list(_obs(demo))
    return (
        "task_description" in demo.attrs
        and any(map(_ROBOCASA_KEYS.match, keys))
        and not any(map(_LIBERO_KEYS.match, keys))
    )


def _quaternions(turns: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Axis times angle (T, 3) as quaternions (T, 4), x y z w."""
    angle = np.linalg.norm(turns, axis=1, keepdims=True)
    axis = turns / np.where(angle > 0, angle, 1.0)
    return np.concatenate([axis * np.sin(angle / 2), np.cos(angle / 2)], axis=1)


def _timing_by_joints(demo: h5py.Group) -> PictureTiming | None:
    states, joints = _member(demo, "states"), _member(demo, "obs/joint_states")
    if not all(isinstance(data, h5py.Dataset) and data.ndim == 2 and len(data) > 2 for data in (states, joints)):
        return None
    if len(states) != len(joints) or states.shape[1] < 8 or joints.shape[1] != 7:
        return None
    before_action, of_picture = states[1:, 1:8], joints[()]
    after = float(np.abs(before_action - of_picture[:-1]).mean())
    before = float(np.abs(before_action - of_picture[1:]).mean())
    if min(after, before) > 0.5 * max(after, before):
        return None  # the arm stands still, or these are other numbers
    return "after_action" if after < before else "before_action"
