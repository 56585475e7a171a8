import hashlib
import itertools
import os
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import open_clip
import pytest
import torch
from torch.utils.data import DataLoader

from datamodules import Batch, LiberoDataModule, RoboCasaDataModule, RobosuiteDataModule, WindowDataset
from datamodules.pictures import Orientation
from datamodules.windows import read_frames
from files.errors import UserError

FileFactory = Callable[..., Path]
TASKS = ("CoffeePressButton", "CloseDrawer", "TurnOnStove", "TurnOffMicrowave")
LENGTHS = (40, 33, 11)


def unit(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Rule of parity/README.md section 1."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    raw = np.random.PCG64(seed).random_raw(int(np.prod(shape)))
    return (np.sqrt(3) * (2 * ((raw >> np.uint64(11)) * 2.0**-53) - 1)).astype(np.float32).reshape(shape)


@pytest.fixture
def published(robocasa_file: FileFactory, tmp_path: Path) -> RoboCasaDataModule:
    """The synthetic demos of dataset_small.npz in RoboCasa's layout, read with the paper's settings."""
    for task in TASKS:
        path = robocasa_file(name=f"{task}/demo.hdf5", task=task, lengths=LENGTHS, size=32)
        with h5py.File(path, "r+") as file:
            for name, demo in file["data"].items():
                demo["actions"][...] = 0.5 * unit(f"data/{task}/{name}/actions", demo["actions"].shape).astype(float)
                demo.attrs["ep_meta"] = f'{{"lang": "{task} {name}"}}'
                for key in [key for key in demo["obs"] if key.endswith("_image")]:
                    values = unit(f"data/{task}/{name}/{key}", demo["obs"][key].shape).astype(float) / np.sqrt(3)
                    demo["obs"][key][...] = np.clip(np.floor(256 * (values + 1) / 2), 0, 255).astype(np.uint8)
    module = RoboCasaDataModule(str(tmp_path), val_fraction=0)
    module.setup()
    return module


def window_of(dataset: WindowDataset, task: str, demo: str, step: int) -> int:
    position = next(i for i, d in enumerate(dataset.demos) if (d.task, d.name) == (task, demo))
    return sum(demo.length for demo in dataset.demos[:position]) + step


@pytest.mark.golden
def test_windows_equal_the_published_dataset(published: RoboCasaDataModule, parity_dir: Path) -> None:
    """Rows, strides, padding, action scaling, image range and instruction, against dataset_small.npz."""
    reference = np.load(parity_dir / "dataset_small.npz")
    stats = published.preprocessing.statistics
    np.testing.assert_array_equal(np.array([stats.minimum]), reference["action_min"])
    np.testing.assert_array_equal(np.array([stats.maximum]), reference["action_max"])
    tokenizer = open_clip.get_tokenizer("ViT-H-14")
    samples = [key.removesuffix("_pose") for key in reference if key.endswith("_pose")]
    assert len(samples) == 5
    differences = dict.fromkeys(("pose", "frame_mean", "cond"), 0.0)
    for sample in samples:
        task, _, number, step = sample.split("_")
        window = published.train_set[window_of(published.train_set, task, f"demo_{number}", int(step))]
        rows = torch.cat([window.frames[0, :1], window.frames.flatten(0, 1)])  # row 0: the lead camera's frame again
        assert np.array_equal(rows.numpy(), reference[f"{sample}_jpg"])
        floats = published.preprocessing.to_float(rows)
        found = {"pose": window.actions, "frame_mean": floats.mean((1, 2, 3)), "cond": floats[[0, 1, 9, 17]]}
        for name, value in found.items():
            golden = reference[f"{sample}_{name}"]
            assert value.shape == golden.shape
            differences[name] = max(differences[name], float(np.abs(value.numpy() - golden).max()))
        assert window.instruction == f"{task} demo_{number}"
        assert np.array_equal(tokenizer([window.instruction]), reference[f"{sample}_tokens"])
    for name, difference in differences.items():
        print(f"golden  dataset_small *_{name} float32 absolute {difference:.1e}  limit 1e-06")
        assert difference < 1e-6


def test_every_step_of_every_demo_starts_a_window(published: RoboCasaDataModule) -> None:
    dataset = published.train_set
    assert len(dataset) == len(TASKS) * sum(LENGTHS)
    assert published.num_train_windows == len(dataset)
    starts = [dataset.locate(i) for i in range(len(dataset))]
    assert starts[0][1] == 0
    assert starts[len(dataset) - 1] == (dataset.demos[-1], dataset.demos[-1].length - 1)
    assert sorted({(d.task, d.name, s) for d, s in starts}) == sorted(
        (d.task, d.name, s) for d in dataset.demos for s in range(d.length)
    )
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_the_end_of_a_demo_holds_the_last_frame_and_masks_say_so(robomimic_file: FileFactory) -> None:
    """Held is the last frame on the stride's grid, not the demo's very last, as in dataset_small.npz."""
    path = robomimic_file(lengths=(6, 6))
    module = RobosuiteDataModule(str(path), num_frames=3, frame_stride=2, action_horizon=4, val_fraction=0)
    module.setup()
    window = module.train_set[2]  # step 2 of 6: frames at 2, 4, (6); actions 2 to 5
    assert window.frames[:, :, 0, 0, 0].tolist() == [[2, 4, 4], [2, 4, 4]]
    assert not window.action_is_pad.any()
    window = module.train_set[4]  # step 4: frames at 4, (6, 8); actions 4, 5, then padding
    assert window.frames[:, :, 0, 0, 0].tolist() == [[4, 4, 4], [4, 4, 4]]
    assert window.action_is_pad.tolist() == [False, False, True, True]
    zeros = module.preprocessing.normalize_actions(torch.zeros(2, 7, dtype=torch.float64)).float()
    assert torch.equal(window.actions[2:], zeros)


def test_action_padding_hold_repeats_the_last_action(robomimic_file: FileFactory) -> None:
    module = RobosuiteDataModule(str(robomimic_file()), action_horizon=4, action_padding="hold", val_fraction=0)
    module.setup()
    last = module.train_set[11]  # the last step of the first demo
    assert torch.equal(last.actions, last.actions[:1].expand(4, -1))


@pytest.mark.parametrize("stride", [1, 3])
def test_frames_are_those_of_the_strided_steps_of_each_camera(robomimic_file: FileFactory, stride: int) -> None:
    path = robomimic_file(lengths=(12, 12))
    module = RobosuiteDataModule(str(path), num_frames=4, frame_stride=stride, val_fraction=0)
    module.setup()
    frames = module.train_set[12 + 2].frames  # demo 1, step 2
    assert frames.shape == (2, 4, 3, 16, 16)
    assert frames.is_contiguous()
    assert frames[0, :, 0, 0, 0].tolist() == [2 + k * stride for k in range(4)]
    assert frames[:, 0, 1, 0, 0].tolist() == [0, 50]  # camera 0, camera 1
    assert frames[0, 0, 2, 0].tolist() == [10 + column for column in range(16)]  # demo 1, columns left to right


def test_libero_images_leave_upright(libero_file: FileFactory) -> None:
    """The fixture stores them upside down, as LIBERO does; green counts rows from the top."""
    module = LiberoDataModule(str(libero_file()), val_fraction=0)
    module.setup()
    window = module.train_set[0]
    assert window.frames[0, 0, 1, :, 0].tolist() == list(range(16))
    assert window.instruction == "pick up the milk and place it in the basket"


@pytest.mark.parametrize(
    ("orientation", "rows", "columns"),
    [("upright", 1, 1), ("flip_vertical", -1, 1), ("flip_horizontal", 1, -1), ("rotate_180", -1, -1)],
)
def test_orientation_turns_rows_and_columns(
    robomimic_file: FileFactory, orientation: Orientation, rows: int, columns: int
) -> None:
    module = RobosuiteDataModule(str(robomimic_file()), orientation=orientation, val_fraction=0)
    module.setup()
    image = module.train_set[0].frames[0, 0]
    assert image[1, :, 0].tolist() == list(range(16))[::rows]
    assert image[2, 0].tolist() == list(range(16))[::columns]


def test_only_the_frames_of_the_window_are_read(robomimic_file: FileFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the bytes that cross from HDF5: 3 frames of 2 cameras and 4 actions of a 500-step demo."""
    module = RobosuiteDataModule(
        str(robomimic_file(lengths=(500, 7))), num_frames=3, frame_stride=5, action_horizon=4, val_fraction=0
    )
    module.setup()
    bytes_by_key: Counter[str] = Counter()
    original = h5py.Dataset.__getitem__

    def counting(self: h5py.Dataset, args: object) -> np.ndarray:
        value = original(self, args)
        bytes_by_key[self.name.rpartition("/")[2]] += value.nbytes
        return value

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counting)
    module.train_set[100]
    frames = 3 * 16 * 16 * 3
    assert bytes_by_key == {"actions": 4 * 7 * 8, "agentview_image": frames, "robot0_eye_in_hand_image": frames}


@pytest.mark.parametrize("chunks", [None, (1, 4, 4, 3), (3, 4, 4, 3), (10, 2, 2, 1)])
@pytest.mark.parametrize("steps", [[5], [0, 1, 2], [2, 6, 10, 14], [1, 18]])
def test_frames_are_the_same_however_they_are_chunked(
    tmp_path: Path, chunks: tuple[int, ...] | None, steps: list[int]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        data = file.create_dataset("x", data=images, chunks=chunks, compression="gzip" if chunks else None)
        assert np.array_equal(read_frames(data, np.array(steps)), images[steps])


def resident_mb() -> float:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the process's memory from /proc")
def test_memory_stays_flat_as_the_file_grows(robomimic_file: FileFactory) -> None:
    """Passing over 79 MB of images must leave less than 8 MB behind: neither demo nor file is kept."""
    path = robomimic_file(lengths=(800, 800), size=2)
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            for key in ("agentview_image", "robot0_eye_in_hand_image"):
                del demo["obs"][key]
                noise = np.random.default_rng(0).integers(0, 256, (800, 90, 90, 3), dtype=np.uint8)
                demo["obs"].create_dataset(key, data=noise, chunks=(1, 90, 90, 3))
    module = RobosuiteDataModule(str(path), val_fraction=0)
    module.setup()
    for index in range(10):
        module.train_set[index]
    before = resident_mb()
    for index in range(0, len(module.train_set), 4):
        module.train_set[index]
    assert resident_mb() < before + 8


def test_a_pickled_dataset_carries_no_open_file(robomimic_file: FileFactory) -> None:
    module = RobosuiteDataModule(str(robomimic_file()), val_fraction=0)
    module.setup()
    expected = module.train_set[3]
    copy = pickle.loads(pickle.dumps(module.train_set))
    assert copy._files._open == {}
    assert torch.equal(copy[3].frames, expected.frames)


def test_workers_open_their_own_handles_and_read_the_same(robomimic_file: FileFactory) -> None:
    """The parent has read before the workers start: an inherited handle must not be used."""
    module = RobosuiteDataModule(str(robomimic_file()), val_fraction=0)
    module.setup()
    here = [module.train_set[i] for i in range(len(module.train_set))]
    loader = DataLoader(module.train_set, 5, num_workers=2, collate_fn=Batch.collate)
    there = list(itertools.chain.from_iterable(batch.frames for batch in loader))
    assert len(here) == len(there)
    assert all(torch.equal(a.frames, b) for a, b in zip(here, there, strict=True))


def test_a_damaged_frame_names_file_demo_and_step(robomimic_file: FileFactory) -> None:
    """Damage inside a compressed image shows only when it is read; the message must lead to it."""
    path = robomimic_file(lengths=(12, 12))
    with h5py.File(path, "r+") as file:
        obs = file["data/demo_1/obs"]
        images = obs["agentview_image"][()]
        del obs["agentview_image"]
        obs.create_dataset("agentview_image", data=images, chunks=(1, 16, 16, 3), compression="gzip")
        chunk = obs["agentview_image"].id.get_chunk_info(4)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    module = RobosuiteDataModule(str(path), num_frames=1, val_fraction=0)
    module.setup()
    with pytest.raises(UserError, match=r"lift\.hdf5 demo_1: step 4 cannot be read"):
        module.train_set[12 + 4]


def test_with_features_in_place_of_frames_a_window_still_has_its_actions(robomimic_file: FileFactory) -> None:
    module = RobosuiteDataModule(str(robomimic_file()), val_fraction=0)
    module.setup()
    with_frames = Batch.collate([module.train_set[i] for i in (1, 2)])
    cache = SimpleNamespace(window=lambda _, step: [torch.full((2,), step)])
    module.train_set.features = cache  # type: ignore[assignment]
    batch = Batch.collate([module.train_set[i] for i in (1, 2)])
    assert batch.features[0].tolist() == [[1, 1], [2, 2]]
    assert batch.first(1).features[0].tolist() == [[1, 1]]
    assert batch.frames.shape == (2, 0)
    assert not batch.has_frames
    assert torch.equal(batch.actions, with_frames.actions)
    assert batch.windows.tolist() == [1, 2]
