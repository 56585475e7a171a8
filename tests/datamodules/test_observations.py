"""Several observations and proprioception in windows, from the file to the batch and in checkpoints."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from datamodules import ActionStatistics, Batch, ColourJitter, Demo, LiberoDataModule, Preprocessing, RobomimicWriter
from files.errors import UserError
from tests.stage_parts import lift_datamodule

DemoFile = Callable[..., Path]


def test_the_frames_before_the_current_one_come_with_it_and_the_first_stands_for_earlier(
    robomimic_file: DemoFile,
) -> None:
    data = lift_datamodule(robomimic_file(), num_observations=3, val_fraction=0)
    data.setup()
    for index, red in ((0, [0, 0, 0]), (1, [0, 0, 1]), (5, [3, 4, 5]), (12, [0, 0, 0]), (14, [0, 1, 2])):  # 12 a demo
        window = data.train_set[index]
        assert window.past_frames is not None
        assert window.past_frames.shape == (2, 2, 3, 16, 16)
        batch = data.on_after_batch_transfer(Batch.collate([window, window]), 0)
        seen = batch.observations
        assert seen.frames.shape == (2, 2, 3, 3, 16, 16)
        assert ((seen.frames[0, 0, :, 0, 0, 0] + 1) * 127.5).round().tolist() == red  # red counts the steps
        assert torch.equal(seen.current, batch.frames[:, :, 0])
        assert seen.proprio.shape == (2, 3, 0)


def test_a_cameras_frames_are_jittered_alike(robomimic_file: DemoFile) -> None:
    jitter = ColourJitter(brightness=0.9)
    data = lift_datamodule(robomimic_file(), num_observations=2, colour_jitter=jitter)
    data.setup()
    data.trainer = type("InTraining", (), {"training": True, "lightning_module": None})()  # type: ignore[assignment]
    batch = Batch.collate([data.train_set[0]])  # the current frame twice
    seen = data.on_after_batch_transfer(batch, 0).observations.frames
    assert torch.equal(seen[:, :, 0], seen[:, :, 1])
    assert not torch.equal(seen[:, :, 1], data.preprocessing.to_float(data.train_set[0].frames)[None, :, 0])


def test_proprioception_is_scaled_by_its_range_and_a_quaternion_is_left_alone(robomimic_file: DemoFile) -> None:
    path = robomimic_file(lengths=(6, 5))
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            steps = len(demo["actions"])
            demo["obs/robot0_eef_quat"] = np.tile([0.9, 0.1, 0.3, 0.2], (steps, 1))
            demo["obs/robot0_gripper_qpos"] = np.stack([np.arange(steps), np.full(steps, 4.0)], axis=1)
    keys = ["robot0_gripper_qpos", "robot0_eef_quat"]
    data = lift_datamodule(path, proprio=keys, num_observations=2, val_fraction=0)
    data.setup()
    window = data.train_set[3]
    assert window.proprio is not None
    want = [[2 * step / 5 - 1, 0.0, 0.9, 0.1, 0.3, 0.2] for step in (2, 3)]  # 0 to 5; what never moves is 0
    assert torch.allclose(window.proprio, torch.tensor(want))
    vectors = {"gripper_qpos": np.array([3.0, 4.0]), "eef_quat": np.array([0.9, 0.1, 0.3, 0.2]), "other": np.ones(1)}
    assert torch.allclose(data.preprocessing.join_proprio(vectors), torch.tensor(want[1]))  # as a simulator says it
    assert Preprocessing.from_dict(data.preprocessing.to_dict()) == data.preprocessing


def test_liberos_vectors_go_by_robosuites_names(libero_file: DemoFile) -> None:
    turn = np.array([0.36, -0.48, 0.8]) * 1.2  # an axis times an angle
    path = libero_file()
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            steps = len(demo["actions"])
            demo["obs/ee_ori"] = np.tile(turn, (steps, 1))
            demo["obs/gripper_states"] = np.stack([np.arange(steps), -np.arange(steps)], axis=1)
    data = LiberoDataModule(
        str(path), image_size=16, num_frames=1, action_horizon=4, val_fraction=0,
        proprio=["robot0_eef_quat", "robot0_gripper_qpos"],
    )  # fmt: skip
    data.setup()
    window, sine = data.train_set[3], np.sin(0.6)
    assert window.proprio is not None
    want = [0.36 * sine, -0.48 * sine, 0.8 * sine, np.cos(0.6), 2 * 3 / 11 - 1, 1 - 2 * 3 / 11]
    assert torch.allclose(window.proprio[0], torch.tensor(want, dtype=torch.float32), atol=1e-6)


def test_with_the_defaults_a_checkpoint_describes_the_data_as_before(robomimic_file: DemoFile) -> None:
    data = lift_datamodule(robomimic_file())
    described = data.preprocessing.to_dict()
    kept = {"cameras", "image_size", "num_frames", "frame_stride", "action_horizon", "action_dims", "statistics"}
    assert set(described) == kept
    assert Preprocessing.from_dict(described) == data.preprocessing
    data.setup()
    window = data.train_set[0]
    assert window.past_frames is None
    assert window.proprio is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda obs: obs.pop("robot0_eef_pos"), r"nothing under obs/robot0_eef_pos, .*Choose among these"),
        (lambda obs: obs["robot0_eef_pos"].__setitem__(0, np.nan), "obs/robot0_eef_pos is not finite"),
        (
            lambda obs: obs.__setitem__("robot0_eef_pos", np.zeros((4, 3))),
            r"of shape \(4, 3\); expected numbers .*9 st",
        ),
        (lambda obs: obs.__setitem__("robot0_eef_pos", np.zeros((9, 2))), "is 2 wide, and 3 in the demos before"),
    ],
)
def test_a_demo_without_usable_proprioception_is_refused_at_set_up(
    change: Callable[[h5py.Group], None], message: str, robomimic_file: DemoFile
) -> None:
    path = robomimic_file()
    with h5py.File(path, "a") as file:
        obs = file["data/demo_1/obs"]
        if "shape" in message or "wide" in message:
            del obs["robot0_eef_pos"]
        change(obs)
    with pytest.raises(UserError, match=f"demo_1: .*{message}"):
        lift_datamodule(path, proprio=["robot0_eef_pos"]).setup()


def test_collected_vectors_are_read_where_training_looks_for_them(tmp_path: Path) -> None:
    path, rng = tmp_path / "lift.hdf5", np.random.default_rng(0)
    images = {camera: rng.integers(0, 256, (6, 16, 16, 3), np.uint8) for camera in ("agentview", "robot0_eye_in_hand")}
    place = rng.normal(size=(6, 3)).astype(np.float32)
    for start in range(0, 4, 2):  # a second writer goes on
        with RobomimicWriter(path, "Lift") as writer:
            for index in range(start, start + 2):
                actions = rng.uniform(-1, 1, (6, 7))
                writer.add(
                    Demo(actions, images, instruction="lift", attrs={"n": str(index)}, proprio={"eef_pos": place})
                )
    data = lift_datamodule(path, proprio=["robot0_eef_pos"], val_fraction=0)
    data.setup()
    window, scaled = data.train_set[2], data.preprocessing.proprio_statistics
    assert window.proprio is not None
    assert scaled == ActionStatistics(
        tuple(place.min(0).astype(float).tolist()), tuple(place.max(0).astype(float).tolist()), constant="zero"
    )
    assert torch.allclose(scaled.denormalize(window.proprio[0]), torch.from_numpy(place[2]), atol=1e-6)
