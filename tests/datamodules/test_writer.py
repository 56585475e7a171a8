import json
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import h5py
import numpy as np
import pytest

from datamodules import Demo, RobomimicWriter, RobosuiteDataModule
from datamodules.demo_files import find_files
from datamodules.hdf5 import open_demo_file
from files.errors import UserError


def make_demo(length: int = 6, size: int = 16, seed: int = 0) -> Demo:
    rng = np.random.default_rng(seed)
    images = {
        camera: rng.integers(0, 256, (length, size, size, 3), dtype=np.uint8)
        for camera in ("agentview", "robot0_eye_in_hand")
    }
    return Demo(
        actions=rng.uniform(-1, 1, (length, 7)),
        images=images,
        states=rng.normal(size=(length, 9)),
        instruction="lift the cube",
        attrs={"model_file": "<mujoco/>", "episode": f"Lift/{seed}"},
    )


def test_the_file_has_robomimics_layout(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lift.hdf5"
    demo = make_demo()
    with RobomimicWriter(path, "Lift", {"robots": "Panda"}) as writer:
        assert writer.add(demo) == "demo_0"
        assert writer.add(make_demo(length=4, seed=1)) == "demo_1"
    with h5py.File(path) as file:
        assert json.loads(file["data"].attrs["env_args"]) == {
            "env_name": "Lift",
            "type": 1,
            "env_kwargs": {"robots": "Panda"},
        }
        assert file["data"].attrs["total"] == 10
        group = file["data/demo_0"]
        assert group.attrs["num_samples"] == 6
        assert group.attrs["model_file"] == "<mujoco/>"
        assert np.array_equal(group["actions"], demo.actions)
        assert np.array_equal(group["states"], demo.states)
        for camera, images in demo.images.items():
            assert np.array_equal(group[f"obs/{camera}_image"], images)
            assert group[f"obs/{camera}_image"].chunks == (1, 16, 16, 3)


def test_what_is_written_is_what_training_reads(tmp_path: Path) -> None:
    path = tmp_path / "lift.hdf5"
    demos = [make_demo(seed=seed) for seed in range(3)]
    with RobomimicWriter(path, "Lift") as writer:
        for demo in demos:
            writer.add(demo)
    data = RobosuiteDataModule(str(path), num_frames=2, frame_stride=1, action_horizon=3, val_fraction=0)
    data.setup()
    window = data.train_set[6 + 1]  # demo 1, step 1
    assert np.array_equal(window.frames[0].permute(0, 2, 3, 1), demos[1].images["agentview"][1:3])
    np.testing.assert_allclose(data.preprocessing.denormalize_actions(window.actions), demos[1].actions[1:4], atol=1e-6)
    assert window.instruction == "lift the cube"
    assert data.train_set.demos[0].task == "Lift"


def test_a_writer_goes_on_where_another_stopped(tmp_path: Path) -> None:
    path = tmp_path / "lift.hdf5"
    with RobomimicWriter(path, "Lift") as writer:
        writer.add(make_demo(seed=0))
    with RobomimicWriter(path, "Lift") as writer:
        assert len(writer) == 1
        assert writer.attributes("episode") == ["Lift/0"]
        assert writer.add(make_demo(seed=1)) == "demo_1"
    with h5py.File(path) as file:
        assert file["data"].attrs["total"] == 12


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (20, 48, 48, 3), dtype=np.uint8)


def write_until_killed(path: Path, reports: Connection) -> None:
    with RobomimicWriter(path, "Lift") as writer:
        for n in range(len(writer), 10_000):
            writer.add(Demo(np.full((20, 7), float(n)), {"agentview": noise(n)}, instruction=f"demo {n}"))
            reports.send(n)


def test_a_writer_killed_at_any_moment_leaves_whole_demos_and_goes_on(tmp_path: Path) -> None:
    """Kill -9 at twelve moments of one file's growth; plain h5py must read every demo."""
    path = tmp_path / "lift.hdf5"
    num_before = 0
    for moment in range(12):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=write_until_killed, args=(path, sender))
        process.start()
        reported = [receiver.recv() for _ in range(2)]
        time.sleep(0.0023 * moment)  # somewhere inside the writing of a later demo
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if moment % 3 == 2:
            RobomimicWriter(path, "Lift").close()  # the later ones go on with a file and parts of it
        num_whole = sum(len(h5py.File(file)["data"]) for file in [*path.parent.rglob("*.hdf5")])
        assert num_whole >= reported[-1] + 1 > num_before
        num_before = num_whole
    RobomimicWriter(path, "Lift").close()
    with h5py.File(path) as file:
        assert len(file["data"]) == num_before
        for n in range(num_before):
            assert np.array_equal(file[f"data/demo_{n}/obs/agentview_image"], noise(n))
            assert file[f"data/demo_{n}"].attrs["num_samples"] == 20
        assert file["data"].attrs["total"] == 20 * num_before


def test_a_kill_between_the_move_and_the_tidying_leaves_every_demo_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lift.hdf5"
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    with RobomimicWriter(path, "Lift") as writer:
        writer.add(make_demo(seed=0))
    assert list(writer.parts.glob("*.hdf5"))
    monkeypatch.undo()
    (tmp_path / ".lift.hdf5.0123456789ab.writing").write_text("of a kill while the parts were joined")
    with RobomimicWriter(path, "Lift") as writer:
        assert len(writer) == 1
        assert writer.add(make_demo(seed=1)) == "demo_1"
    with open_demo_file(path) as file:
        assert sorted(file["data"]) == ["demo_0", "demo_1"]
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_yet_in_the_file_is_data_in_itself_but_no_part_of_the_folder_around(tmp_path: Path) -> None:
    writer = RobomimicWriter(tmp_path / "lift.hdf5", "Lift")
    for seed in range(2):
        writer.add(make_demo(seed=seed))
    writer.close(merge=False)
    assert [path.name for path in find_files(writer.parts)] == ["demo_0.hdf5", "demo_1.hdf5"]
    with pytest.raises(UserError, match=r"no \.hdf5"):
        find_files(tmp_path)


@pytest.mark.parametrize(("method", "file"), [("create_dataset", "demo_1.hdf5"), ("copy", "lift.hdf5")])
def test_a_full_disk_costs_the_demo_but_not_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, file: str
) -> None:
    path = tmp_path / "lift.hdf5"

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def add_another() -> None:
        with RobomimicWriter(path, "Lift") as writer:
            writer.add(make_demo(seed=1))

    with RobomimicWriter(path, "Lift") as writer:
        writer.add(make_demo(seed=0))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(h5py.Group, method, full)
        with pytest.raises(UserError, match=rf"{file}: could not be written \(No space left on device\).*free some"):
            add_another()
    assert path.read_bytes() == before
    if method == "create_dataset":
        add_another()
    with RobomimicWriter(path, "Lift") as writer:
        assert len(writer) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_are_told_to_wait_and_a_reader_reads_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "lift.hdf5"
    with RobomimicWriter(path, "Lift") as writer:
        writer.add(make_demo())
    with RobomimicWriter(path, "Lift") as writer:
        writer.add(make_demo(seed=1))
        with pytest.raises(UserError, match=r"another process is using this file \(process \d+\); wait"):
            RobomimicWriter(path, "Lift")
        with open_demo_file(path) as file:
            assert len(file["data"]) == 1


def test_a_file_with_an_earlier_versions_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lift.hdf5"
    with RobomimicWriter(path, "Lift") as writer:
        writer.add(make_demo())
    (tmp_path / "lift.hdf5.journal").write_bytes(b"VPJ1")
    for use in (open_demo_file, lambda path: RobomimicWriter(path, "Lift")):
        with pytest.raises(UserError, match=r"lift\.hdf5\.journal"):
            use(path)


def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\)|cannot be written \(File exists\)"):
        RobomimicWriter(tmp_path / "file" / "lift.hdf5", "Lift")
    with pytest.raises(UserError, match="not an HDF5 file"):
        RobomimicWriter(tmp_path / "file", "Lift")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_demos_of_another_task_or_shape_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "lift.hdf5"
    with RobomimicWriter(path, "Lift") as writer:
        writer.add(make_demo())
        with pytest.raises(UserError, match="write it to another output"):
            writer.add(make_demo(size=8))
        bad = make_demo()
        bad.actions[2, 3] = np.nan
        with pytest.raises(UserError, match="actions must be finite"):
            writer.add(bad)
        short = make_demo()
        short.images["agentview"] = short.images["agentview"][:-1]  # type: ignore[index]
        with pytest.raises(UserError, match=r"images of agentview .* one per action"):
            writer.add(short)
        assert len(writer) == 1
    with pytest.raises(UserError, match="holds demos of Lift, not of Stack"):
        RobomimicWriter(path, "Stack")
