"""The folder of a run: who uses it, where it stands, what changed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from files.errors import UserError
from videopolicy.experiment.run_directory import StageDirectory, is_rank_zero
from videopolicy.versions import describe_environment, git_commit

HOLD = "import sys, time\nfrom pathlib import Path\nfrom videopolicy.experiment.run_directory import StageDirectory\n"
HOLD += "StageDirectory(Path(sys.argv[1]), 'video').prepare()\nprint('held', flush=True)\ntime.sleep(60)"


def test_a_second_process_is_refused_by_the_first_ones_id_and_let_in_when_that_is_killed(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"the run directory is in use by process {holder.pid}"):
            StageDirectory(tmp_path, "video").prepare()
        StageDirectory(tmp_path, "action").prepare()  # another stage's folder is free
    finally:
        holder.kill()
        holder.wait()
    directory = StageDirectory(tmp_path, "video")
    directory.prepare()
    assert (directory.path / ".lock").read_text() == str(os.getpid())
    directory.release()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\); give another folder with --run_dir"):
        StageDirectory(tmp_path / "file", "video").prepare()


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"])
def test_only_rank_zero_touches_the_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_rank_zero()
    monkeypatch.setenv(name, "1")
    StageDirectory(tmp_path / "run", "video").prepare()
    assert not (tmp_path / "run").exists()


def test_a_stage_is_finished_while_what_it_trained_is_there(tmp_path: Path) -> None:
    directory = StageDirectory(tmp_path, "video")
    config = {"trainer": {"max_steps": 10, "max_epochs": None, "devices": 1}}
    directory.last.parent.mkdir(parents=True)
    assert directory.finished() is None
    directory.mark_finished(config, global_step=10)
    assert directory.finished() is None  # no checkpoint: nothing to build on
    directory.last.touch()
    assert directory.finished() == {"limits": {"max_steps": 10}, "global_step": 10}


def test_a_stage_of_no_steps_is_finished_without_a_checkpoint(tmp_path: Path) -> None:
    directory = StageDirectory(tmp_path, "video")
    directory.path.mkdir()
    directory.mark_finished({"trainer": {"max_steps": 0}}, global_step=0)
    assert directory.finished()


def test_the_best_checkpoint_is_judged_before_the_last_and_none_is_said(tmp_path: Path) -> None:
    directory = StageDirectory(tmp_path, "action")
    with pytest.raises(UserError, match="no checkpoint of the action stage; train it first or give one with --ckpt"):
        directory.checkpoint()
    directory.last.parent.mkdir(parents=True)
    directory.last.touch()
    assert directory.checkpoint() == directory.last
    directory.best.touch()
    assert directory.checkpoint() == directory.best


def test_an_action_stage_does_not_go_on_when_its_video_network_was_replaced(tmp_path: Path) -> None:
    directory = StageDirectory(tmp_path, "action")
    manifest = directory.handoff_manifest({"handoff": None})
    assert manifest == tmp_path / "handoff" / "manifest.json"
    assert directory.handoff_manifest({"handoff": "other"}) == Path("other/manifest.json")
    for folder in (manifest.parent, directory.last.parent):
        folder.mkdir(parents=True)
    manifest.write_text('{"sha256": "a"}')
    directory.require_same_handoff(manifest)  # nothing trained yet
    directory.record_handoff(manifest)
    directory.last.touch()
    directory.require_same_handoff(manifest)
    manifest.write_text('{"sha256": "b"}')
    with pytest.raises(UserError, match=r"last\.ckpt: was trained on another video network than .*handoff holds now"):
        directory.require_same_handoff(manifest)


def test_versions_name_the_packages_the_commit_and_the_command() -> None:
    start = time.monotonic()
    environment = describe_environment()
    assert time.monotonic() - start < 20
    assert {"torch", "lightning", "diffusers"} <= environment["packages"].keys()
    assert environment["git_commit"] == git_commit()
    assert environment["command"]
