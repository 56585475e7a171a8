import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from simulators import libero_assets
from simulators.errors import SimulatorError
from simulators.libero_tasks import STEP_LIMITS, load_init_states, suite_tasks

pytest.importorskip("libero", reason="LIBERO is not installed: pip install -e '.[libero]'")

LIBEROS_OWN = """
import sys, json
from simulators.libero_assets import import_libero
import_libero()
from libero.libero.benchmark import get_benchmark
sys.stdout, out = sys.stderr, sys.stdout
tasks = [[t.name, t.language, t.problem_folder, t.bddl_file, t.init_states_file] for s in sys.argv[1:]
         for t in get_benchmark(s)().tasks]
out.write(json.dumps(tasks))
"""


def test_the_130_tasks_are_liberos_own_in_its_order_with_its_words() -> None:
    command = [sys.executable, "-c", LIBEROS_OWN, *STEP_LIMITS]
    root = Path(__file__).resolve().parents[2]
    theirs = json.loads(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout)
    ours = [
        [task.name, task.language, task.problem_folder, task.bddl_file, task.init_states_file]
        for suite in STEP_LIMITS
        for task in suite_tasks(suite)
    ]
    assert len(ours) == 130
    assert ours == theirs


def test_all_recorded_states_equal_what_torch_reads() -> None:
    torch = pytest.importorskip("torch")
    folder = libero_assets.package_folder() / "init_files"
    count = 0
    for suite in STEP_LIMITS:
        for task in suite_tasks(suite):
            path = folder / suite / task.init_states_file
            states = load_init_states(path)
            assert states.shape[0] == 50
            assert np.array_equal(states, torch.load(path, weights_only=False))
            count += 1
    assert count == 130


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


def test_a_pickle_that_names_anything_but_arrays_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "task.pruned_init"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil(), protocol=2))
    with pytest.raises(SimulatorError, match=r"not LIBERO's recorded initial states \(it names __builtin__\.print"):
        load_init_states(path)
    assert capsys.readouterr().out == ""


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "task.pruned_init"
    with pytest.raises(SimulatorError, match=r"task\.pruned_init: not LIBERO's recorded .*No such file"):
        load_init_states(path)
    path.write_bytes(b"version https://git-lfs")
    with pytest.raises(SimulatorError, match=r"not a zip file\); reinstall LIBERO"):
        load_init_states(path)
