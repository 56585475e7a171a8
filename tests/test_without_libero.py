"""Commands in an environment like that of `make demo`: everything but LIBERO is installed."""

import subprocess
import sys
import venv
from pathlib import Path

import h5py
import pytest

from tests.videopolicy.conftest import environment

LIBERO = ("libero", "hf_libero", "__editable__")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter of its own, with this one's packages but LIBERO's."""
    folder = tmp_path_factory.mktemp("without") / "env"
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for entry in Path(h5py.__file__).parents[1].iterdir():
        if not entry.name.startswith(LIBERO) and entry.suffix != ".pth":
            (site / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def run(python: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-m", "videopolicy.main", *words]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)


def test_simulators_are_listed_with_what_gets_the_missing_one(python: Path, tmp_path: Path) -> None:
    done = run(python, tmp_path, "simulators", "list")
    assert done.returncode == 0, done.stderr
    assert "pip install -e '.[libero]' in the folder of this project" in " ".join(done.stdout.split())
    assert "robosuite 1.4." in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["simulators", "check", "libero"],
        ["collect", "--simulator", "libero", "--task", "all", "--episodes", "1", "--output", "demos/libero.hdf5"],
        ["evaluate", "--protocol", "libero_object", "--policy", "scripted", "--episodes", "1"],
        ["variation", "--protocol", "libero_object", "--policy", "scripted", "--kinds", "position", "--output", "out"],
    ],
    ids=lambda words: words[0],
)
def test_what_needs_it_says_so_in_one_sentence(python: Path, tmp_path: Path, words: list[str]) -> None:
    done = run(python, tmp_path, *words)
    assert done.returncode == 2, done.stderr
    said = done.stderr.strip().splitlines()
    assert len(said) == 1, done.stderr
    assert "pip install -e '.[libero]'" in said[0]
    assert not list(tmp_path.rglob("*.hdf5"))


def test_the_environment_is_what_it_says(python: Path) -> None:
    code = "import importlib.util as u; print([u.find_spec(n) is None for n in ('libero', 'robosuite', 'torch')])"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[True, False, False]"
    assert sys.executable != str(python)
