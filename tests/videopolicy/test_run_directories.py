"""Run directories as people name and share them, through the real command."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.videopolicy.conftest import environment

Start = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def video(tmp_path: Path, lift_overlay: list[str]) -> Start:
    """`lightning fit` of the video stage with an environment of its own; a variable that is None is taken away."""

    def run(*options: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "videopolicy.lightning_cli",
            "fit",
            *lift_overlay,
            "--stage",
            "video",
            *options,
        ]
        given = {**environment(), **variables}
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={name: value for name, value in given.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=400,
        )

    return run


@pytest.mark.slow
def test_odd_names_and_no_home_work(tmp_path: Path, video: Start) -> None:
    name = "läufe [1] #2/my run, 100% {x}=y"
    for steps, said in (("2", ""), ("4", "going on from")):
        done = video("--run_dir", name, "--trainer.max_steps", steps, HOME=None)
        assert done.returncode == 0, done.stderr[-2000:]
        assert said in done.stdout
    stage = tmp_path / name / "video"
    assert {"finished.json", "config.yaml", "versions.json", "checkpoints"} <= {path.name for path in stage.iterdir()}
    assert (tmp_path / name / "handoff" / "manifest.json").is_file()
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_home_directory_is_meant_by_its_sign(tmp_path: Path, video: Start) -> None:
    done = video("--run_dir=~/r", HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "home" / "r" / "video" / "finished.json").is_file()


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, video: Start) -> None:
    (tmp_path / "file").write_text("")
    for folder, reason in {"file": "Not a directory", "/proc/run": "No such file or directory"}.items():
        done = video("--run_dir", folder)
        assert done.returncode == 2
        assert done.stderr.strip().splitlines()[-1] == (
            f"lightning: {folder}/video: cannot be written ({reason}); give another folder with --run_dir."
        )


def test_stray_rank_variables_change_nothing_and_the_lock_holds(tmp_path: Path, video: Start) -> None:
    stray = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}
    done = video(**stray, SLURM_JOB_NAME="bash", SLURM_JOB_ID="1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "RANK=3, LOCAL_RANK=1, SLURM_PROCID=1 is left in the environment" in done.stderr
    stage = tmp_path / "runs" / "lift" / "video"
    assert {"finished.json", "config.yaml", "versions.json", ".lock"} <= {path.name for path in stage.iterdir()}
    assert list(stage.glob("events.out.tfevents.*"))
    hold = "import sys; from pathlib import Path; from files.locks import hold_folder\n"
    hold += f"lock = hold_folder(Path({str(stage)!r})); print(flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold], env={**os.environ, **environment()}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        second = video("--trainer.max_steps", "4", RANK="3")
        assert second.returncode == 2
        assert f"in use by process {holder.pid}" in second.stderr
    finally:
        holder.kill()
        holder.wait()
