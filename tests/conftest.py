"""Fixtures that every test package uses."""

import gzip
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from simulators.errors import SimulatorError
from simulators.rendering import choose_gl

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # before torch is imported, here and in children
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

with suppress(SimulatorError):  # no OpenGL: the tests that draw say so
    choose_gl(None)  # mujoco asks once, when the first test module imports it, and later tests draw

pytest_plugins = ("tests.stage_parts", "tests.reference_parts")

DemoFileFactory = Callable[..., Path]
CORRUPTIONS = (
    "truncated",
    "not_hdf5",
    "no_data_group",
    "no_demos",
    "no_images",
    "no_actions",
    "empty_demo",
    "cut_short",
    "nan_actions",
    "infinite_actions",
    "wrong_width",
    "constant_action",
    "missing_camera",
    "unequal_cameras",
    "not_square",
    "float_images",
    "no_instruction",
)


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """Folder with the arrays that prove equality with the published network; its README says how they were made."""
    return Path(__file__).resolve().parent / "data" / "parity"


@pytest.fixture(scope="session")
def reference_keys(parity_dir: Path) -> dict[str, Any]:
    """The published checkpoints' keys and shapes, parameter counts and FLOPs."""
    with gzip.open(parity_dir / "reference_keys.json.gz", "rt") as file:
        keys: dict[str, Any] = json.load(file)
    return keys


def demo_frame(demo: int, step: int, camera: int, size: int) -> np.ndarray:
    """An image that tells where it is from: red = step, green = 50 x camera + row, blue = 10 x demo + column."""
    rows, columns = np.indices((size, size))
    image = np.stack([np.full((size, size), step), 50 * camera + rows, 10 * demo + columns], axis=-1)
    return (image % 256).astype(np.uint8)


def write_demos(
    path: Path,
    keys_by_camera: dict[str, str],
    *,
    lengths: Sequence[int],
    size: int,
    action_dim: int,
    seed: int,
    demo_attributes: dict[str, str],
    data_attributes: dict[str, str],
    stored: Callable[[np.ndarray], np.ndarray] = np.asarray,
    corruption: str | None = None,
) -> Path:
    """Write one file; a corruption (one of CORRUPTIONS) spoils its second demo, or the whole file."""
    assert corruption is None or corruption in CORRUPTIONS, f"no corruption {corruption!r}; there are {CORRUPTIONS}"
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    spoilt = min(1, len(lengths) - 1)
    with h5py.File(path, "w") as file:
        data = file.create_group("data" if corruption != "no_data_group" else "episodes")
        data.attrs.update({k: v for k, v in data_attributes.items() if v is not None})
        for i, length in enumerate(lengths if corruption != "no_demos" else ()):
            bad = corruption if i == spoilt else None
            demo = data.create_group(f"demo_{i}")
            demo.attrs.update({k: v for k, v in demo_attributes.items() if v is not None})
            steps = 0 if bad == "empty_demo" else length
            demo.attrs["num_samples"] = steps
            actions = rng.uniform(-1, 1, (steps, action_dim + (bad == "wrong_width")))
            if corruption == "constant_action":
                actions[:, 1] = 0.25
            if bad in ("nan_actions", "infinite_actions"):
                actions[-1, 2] = np.nan if bad == "nan_actions" else np.inf
            if bad != "no_actions":
                demo["actions"] = actions[: length // 2] if bad == "cut_short" else actions
            demo["states"] = rng.normal(size=(steps, 5))
            obs = demo.create_group("obs")
            obs["robot0_eef_pos"] = rng.normal(size=(steps, 3))
            for c, key in enumerate(keys_by_camera.values()):
                last = c == len(keys_by_camera) - 1
                if corruption == "no_images" or (bad == "missing_camera" and last):
                    continue
                pixels = size // 2 if bad == "unequal_cameras" and last else size
                shape = (steps, pixels, pixels, 3)
                images = np.array([stored(demo_frame(i, t, c, pixels)) for t in range(steps)], np.uint8).reshape(shape)
                images = images[:, : size // 2] if bad == "not_square" else images
                images = images / np.float32(255) if bad == "float_images" else images
                obs.create_dataset(key, data=images, chunks=(1, *images.shape[1:]) if steps else None)
        file.create_group("mask")["first_two"] = np.array([b"demo_0", b"demo_1"])
    if corruption == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
    if corruption == "not_hdf5":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    return path


@pytest.fixture
def robomimic_file(tmp_path: Path) -> DemoFileFactory:
    """Write a small file in robosuite/robomimic's layout and return its path."""

    def write(
        name: str = "lift.hdf5",
        lengths: Sequence[int] = (12, 9, 7),
        size: int = 16,
        cameras: Sequence[str] = ("agentview", "robot0_eye_in_hand"),
        instruction: str | None = "lift the cube",
        task: str = "Lift",
        action_dim: int = 7,
        seed: int = 0,
        corruption: str | None = None,
    ) -> Path:
        env: dict[str, Any] = {"env_name": task, "type": 1, "env_kwargs": {}}
        if instruction is not None and corruption != "no_instruction":
            env["instruction"] = instruction
        return write_demos(
            tmp_path / name,
            {camera: f"{camera}_image" for camera in cameras},
            lengths=lengths,
            size=size,
            action_dim=action_dim,
            seed=seed,
            demo_attributes={"model_file": "<mujoco/>"},
            data_attributes={"env_args": json.dumps(env)},
            corruption=corruption,
        )

    return write


@pytest.fixture
def robocasa_file(tmp_path: Path) -> DemoFileFactory:
    """Write a small file in RoboCasa v0.2's layout and return its path."""

    def write(
        name: str = "CloseDrawer/demo_im128.hdf5",
        lengths: Sequence[int] = (12, 9, 7),
        size: int = 16,
        cameras: Sequence[str] = ("robot0_agentview_left", "robot0_agentview_right", "robot0_eye_in_hand"),
        instruction: str | None = "close the drawer",
        task: str = "CloseDrawer",
        action_dim: int = 12,
        seed: int = 0,
        corruption: str | None = None,
    ) -> Path:
        env = {"env_name": task, "type": 1, "env_version": "1.4.1", "env_kwargs": {"robots": "PandaMobile"}}
        episode = {"layout_id": 1, "style_id": 1, "lang": instruction}
        return write_demos(
            tmp_path / name,
            {camera: f"{camera}_image" for camera in cameras},
            lengths=lengths,
            size=size,
            action_dim=action_dim,
            seed=seed,
            demo_attributes={"ep_meta": json.dumps(episode), "model_file": "<mujoco/>"},
            data_attributes={"env_args": json.dumps(env)},
            corruption=corruption,
        )

    return write


@pytest.fixture
def libero_file(tmp_path: Path) -> DemoFileFactory:
    """Write a small file in LIBERO's layout (images upside down) and return its path."""

    def write(
        name: str = "pick_up_the_milk_and_place_it_in_the_basket_demo.hdf5",
        lengths: Sequence[int] = (12, 9, 7),
        size: int = 16,
        cameras: Sequence[str] = ("agentview", "robot0_eye_in_hand"),
        instruction: str | None = "pick up the milk and place it in the basket",
        action_dim: int = 7,
        seed: int = 0,
        corruption: str | None = None,
    ) -> Path:
        env = {"env_name": "Libero_Floor_Manipulation", "type": 1, "problem_name": "libero_floor_manipulation"}
        problem = {"problem_name": "libero_floor_manipulation", "domain_name": "robosuite"}
        if corruption != "no_instruction":
            problem["language_instruction"] = instruction
        return write_demos(
            tmp_path / name,
            {camera: f"{camera.removeprefix('robot0_')}_rgb" for camera in cameras},
            lengths=lengths,
            size=size,
            action_dim=action_dim,
            seed=seed,
            demo_attributes={"init_state": "[]"},
            data_attributes={
                "env_args": json.dumps(env),
                "problem_info": json.dumps(problem),
                "bddl_file_name": "milk.bddl",
            },
            stored=lambda image: image[::-1],
            corruption=corruption,
        )

    return write
