"""Workers in other interpreters: those that can run one, and the sentences of those that cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rollouts.engine import RolloutEngine
from rollouts.policies import ReplayPolicy
from rollouts.worker_process import check_simulator
from simulators.bootstrap import OLDEST_PYTHON
from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError

HERE = Path(__file__).parent
INTERPRETERS = [path for path in os.environ.get("VIDEOPOLICY_TEST_PYTHONS", "").split(os.pathsep) if path]
"""Interpreters with numpy and nothing else, for instance one each of Python 3.9 to 3.13."""


def script(path: Path, text: str) -> str:
    """An executable that stands in for an interpreter."""
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def refusal(counting: Callable[..., SimulatorConfig], python: str) -> str:
    with pytest.raises(SimulatorError) as caught:
        check_simulator(counting(python=python))
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    return message


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A virtual environment without numpy."""
    venv.create(tmp_path / "bare", with_pip=False)
    return tmp_path / "bare"


def test_an_interpreter_without_numpy_says_so_with_the_command_that_gets_it(
    counting: Callable[..., SimulatorConfig], bare: Path
) -> None:
    python = str(bare / "bin" / "python")
    assert refusal(counting, python) == (
        f"{python} has no numpy, which every worker needs: run {python} -m pip install numpy."
    )


def test_a_rollout_gives_the_same_sentence(counting: Callable[..., SimulatorConfig], bare: Path) -> None:
    config = counting(python=str(bare / "bin" / "python"))
    with RolloutEngine(config) as engine, pytest.raises(SimulatorError, match="has no numpy, which every worker needs"):
        engine.run(ReplayPolicy({"": [np.ones((4, 2), dtype=np.float32)]}), config.episodes(2), progress=False)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("__version__ = '1.16.2'", r"numpy of .* is 1\.16\.2; workers need 1\.21 or newer"),
        ("raise RuntimeError('wrong ABI\\nlong story')", r"numpy of .* does not import \(wrong ABI\): reinstall it"),
        ("import gone", r"numpy of .* does not import \(No module named 'gone'\): reinstall it"),
    ],
)
def test_a_numpy_that_cannot_be_used_is_named(
    counting: Callable[..., SimulatorConfig], bare: Path, module: str, expected: str
) -> None:
    site = next((bare / "lib").glob("python*/site-packages"))
    (site / "numpy.py").write_text(module)
    with pytest.raises(SimulatorError, match=expected):
        check_simulator(counting(python=str(bare / "bin" / "python")))


def test_an_interpreter_that_is_too_old_says_so(counting: Callable[..., SimulatorConfig], tmp_path: Path) -> None:
    """A real old one where there is one, else this one made to believe that it is."""
    found = [path for name in ("python3.8", "python3.7") if (path := shutil.which(name)) and runs(path)]
    lie = "import sys; sys.version_info = (3, 8, 18, 'final', 0); sys.argv.pop(0); import runpy; "
    lie += "runpy.run_path(sys.argv[0], run_name='__main__')"
    python = found[0] if found else script(tmp_path / "old", f'#!/bin/sh\nexec {sys.executable} -c "{lie}" "$@"\n')
    assert "workers need 3.9 or newer: name another interpreter in `python`." in refusal(counting, python)


def runs(python: str) -> bool:
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0  # pyenv's shims may only complain


def test_an_interpreter_that_is_not_there_or_no_python_is_one_sentence(
    counting: Callable[..., SimulatorConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ours = refusal(counting, ".venvs/robocasa/bin/python")
    assert ours.endswith("(No such file or directory); `make sim-robocasa` makes it.")
    gone = str(tmp_path / "gone" / "python")
    assert f"cannot start its Python {gone!r} (No such file or directory)" in refusal(counting, gone)
    folder = str(tmp_path)
    assert f"cannot start its Python {folder!r} (Permission denied)" in refusal(counting, folder)
    quiet = script(tmp_path / "quiet", "#!/bin/sh\nexit 3\n")
    message = refusal(counting, quiet)
    assert f"{quiet!r} does not start a worker: it went away" in message
    assert "(exit code 3); set `python`" in message
    loud = script(tmp_path / "loud", "#!/bin/sh\necho first >&2\necho the disk is on fire >&2\nexit 1\n")
    assert "(exit code 1) and printed 'the disk is on fire'; set `python`" in refusal(counting, loud)


def versions(python: str) -> str:
    code = "import sys, numpy; print('%d.%d' % sys.version_info[:2], numpy.__version__)"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("python", INTERPRETERS or ["none"])
def test_a_rollout_runs_in_every_interpreter_and_gives_the_same_results(
    counting: Callable[..., SimulatorConfig], monkeypatch: pytest.MonkeyPatch, python: str
) -> None:
    if not INTERPRETERS:
        pytest.skip("VIDEOPOLICY_TEST_PYTHONS names no interpreters with numpy (paths with ':' between)")
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    policy = ReplayPolicy({"": [np.full((16, 2), 0.25, dtype=np.float32)]})
    outcomes = []
    for other in (None, python):
        config = check_simulator(counting(["up", "down"], python=other))
        with RolloutEngine(config, num_workers=2, execute_steps=8, record_episodes=1, record_stride=4) as engine:
            results = engine.run(policy, config.episodes(6), progress=False)
        assert results[0].recording is not None
        pictures = [frame["left"].tolist() for frame in results[0].recording.frames]
        outcomes.append(([(r.task, r.seed, r.success, r.steps, r.replans, r.error) for r in results], pictures))
    print(versions(python))
    assert outcomes[0] == outcomes[1]
    assert all(success for _, _, success, *_ in outcomes[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("minor", range(OLDEST_PYTHON[1], 14))
def test_every_module_of_the_package_compiles_under(minor: int) -> None:
    """Compiling needs no numpy, so any such interpreter on the path will do."""
    python = shutil.which(f"python3.{minor}")
    named = next((path for path in INTERPRETERS if versions(path).startswith(f"3.{minor} ")), None)
    python = named or (python if python and runs(python) else None)
    if python is None:
        pytest.skip(f"no python3.{minor} on PATH or in VIDEOPOLICY_TEST_PYTHONS")
    files = [str(path) for path in sorted((HERE.parents[1] / "simulators").rglob("*.py"))]
    code = "import sys\nfor path in sys.argv[1:]: compile(open(path, encoding='utf-8').read(), path, 'exec')"
    subprocess.run([python, "-c", code, *files], check=True)
