"""Demo files as people have them, small: every kind that ``test_demo_kinds`` speaks about."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t, h5z
from PIL import Image

STEPS, SIZE = 12, 16
LIBERO_KEYS = ("agentview_rgb", "eye_in_hand_rgb")
ROBOMIMIC_KEYS = ("agentview_image", "robot0_eye_in_hand_image")
ROBOCASA_KEYS = ("robot0_agentview_left_image", "robot0_agentview_right_image", "robot0_eye_in_hand_image")

Change = Callable[[h5py.Group], None]


def write(
    path: Path,
    keys: Sequence[str],
    *,
    data: dict[str, object] | None = None,
    demo: dict[str, object] | None = None,
    names: Sequence[str] = ("demo_0", "demo_1", "demo_2"),
    action_dim: int = 7,
    change: Change | None = None,
) -> Path:
    """A file whose picture t is of brightness 10 t, and whose action t is t / 20 in number 0; then a change a demo."""
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        root = file.create_group("data")
        root.attrs.update(
            {key: value if isinstance(value, str) else json.dumps(value) for key, value in (data or {}).items()}
        )
        for name in names:
            group = root.create_group(name)
            group.attrs.update(demo or {})
            group["actions"] = rng.uniform(-1, 1, (STEPS, action_dim))
            group["actions"][:, 0] = np.arange(STEPS) / 20
            for key in keys:
                group[f"obs/{key}"] = np.repeat(np.arange(STEPS, dtype=np.uint8), SIZE * SIZE * 3).reshape(
                    STEPS, SIZE, SIZE, 3
                ) * np.uint8(10)
            group["obs/robot0_eef_pos"] = rng.normal(size=(STEPS, 3))
            if change is not None:
                change(group)
    return path


def robomimic(path: Path, change: Change | None = None, keys: Sequence[str] = ROBOMIMIC_KEYS, **data: object) -> Path:
    env = {"env_name": "Lift", "type": 1, "env_kwargs": {}, "instruction": "lift the cube"}
    return write(path, keys, data={"env_args": env, **data}, change=change)


def libero(path: Path, change: Change | None = None, keys: Sequence[str] = LIBERO_KEYS, **data: object) -> Path:
    return write(path, keys, data={"problem_info": {"language_instruction": "put it down"}, **data}, change=change)


def robocasa(path: Path, change: Change | None = None) -> Path:
    """The human demos: five numbers of the base never change."""

    def still(group: h5py.Group) -> None:
        group["actions"][:, 7:] = [0, 0, 0, 0, -1]
        if change is not None:
            change(group)

    env, episode = {"env_name": "CloseDrawer", "type": 1}, {"ep_meta": json.dumps({"lang": "close the drawer"})}
    return write(path, ROBOCASA_KEYS, data={"env_args": env}, demo=episode, action_dim=12, change=still)


def cosmos(path: Path, keys: Sequence[str]) -> Path:
    return write(path, keys, demo={"task_description": "close the drawer"})


def encoded(path: Path, kind: str) -> Path:
    """LIBERO as Cosmos Policy's script keeps it: a JPEG or PNG a step."""

    def encode(group: h5py.Group) -> None:
        for key in LIBERO_KEYS:
            pictures = group[f"obs/{key}"][()]
            del group[f"obs/{key}"]
            data = group.create_dataset(f"obs/{key}_{kind}", (STEPS,), h5py.vlen_dtype(np.uint8))
            for step, picture in enumerate(pictures):
                content = io.BytesIO()
                Image.fromarray(picture).save(content, kind.upper())
                data[step] = np.frombuffer(content.getvalue(), np.uint8)

    return write(path, LIBERO_KEYS, demo={"task_description": "put it down"}, change=encode)


def resized(count: int) -> Change:
    """So many pictures in place of one a step."""

    def change(group: h5py.Group) -> None:
        for key in [key for key in group["obs"] if key.endswith(("_image", "_rgb"))]:
            del group[f"obs/{key}"]
            group[f"obs/{key}"] = np.zeros((count, SIZE, SIZE, 3), np.uint8)

    return change


def without_pictures(group: h5py.Group) -> None:
    del group["obs"]
    group["states"] = np.zeros((STEPS, 5))


def foreign_filter(group: h5py.Group) -> None:
    """Pictures in a compression that is not installed (blosc)."""
    for key in ROBOMIMIC_KEYS:
        del group[f"obs/{key}"]
        settings = h5p.create(h5p.DATASET_CREATE)
        settings.set_chunk((1, SIZE, SIZE, 3))
        settings.set_filter(32001, h5z.FLAG_OPTIONAL)
        shape = h5s.create_simple((STEPS, SIZE, SIZE, 3))
        data = h5d.create(group["obs"].id, key.encode(), h5t.NATIVE_UINT8, shape, settings)
        for step in range(STEPS):
            data.write_direct_chunk((step, 0, 0, 0), b"xx", filter_mask=0)


def soft_link(group: h5py.Group) -> None:
    del group["obs/agentview_image"]
    group["obs/agentview_image"] = h5py.SoftLink("/pictures/gone")


def external_link(group: h5py.Group) -> None:
    del group["obs/agentview_image"]
    group["obs/agentview_image"] = h5py.ExternalLink("gone.hdf5", "/pictures")


def group_for_pictures(group: h5py.Group) -> None:
    del group["obs/agentview_image"]
    group.create_group("obs/agentview_image")


def set_actions(column: int, values: Callable[[int], np.ndarray]) -> Change:
    def change(group: h5py.Group) -> None:
        group["actions"][:, column] = values(STEPS)

    return change


def joints(shift: int) -> Change:
    """States before every action, and joints that go with the picture: the same ones, or those a step later."""

    def change(group: h5py.Group) -> None:
        positions = np.cumsum(np.random.default_rng(1).uniform(0, 1, (STEPS + 1, 7)), axis=0)
        group["states"] = np.concatenate([np.zeros((STEPS, 1)), positions[:STEPS], np.zeros((STEPS, 9))], axis=1)
        group["obs/joint_states"] = positions[shift : shift + STEPS]

    return change


def unclosed(path: Path) -> Path:
    """A writer in SWMR mode that was killed."""
    whole = robomimic(path.with_name("whole.hdf5"))
    code = (
        "import h5py, os, sys; f = h5py.File(sys.argv[2], 'w', libver='latest'); s = h5py.File(sys.argv[1]);"
        "s.copy('data', f); f.flush(); f.swmr_mode = True; os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(whole), str(path)], check=True)
    whole.unlink()
    return path


def bytes_of(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def dangling(path: Path) -> Path:
    os.symlink("nowhere.hdf5", path)
    return path
