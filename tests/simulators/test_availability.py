import venv
from pathlib import Path

import numpy as np
import pytest

from rollouts.worker_process import check_simulator
from simulators.availability import import_simulator, read_options, require_installed, require_known
from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError


def test_a_missing_package_names_the_interpreter_and_what_to_install() -> None:
    with pytest.raises(SimulatorError, match=r"no_such_package is not installed in .*python.*-e '.\[libero\]'"):
        require_installed("no_such_package", "libero")


def test_a_package_that_does_not_import_gives_its_own_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "picky_simulator.py").write_text("assert False, 'numpy must be 1.23'")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SimulatorError, match=r"AssertionError: numpy must be 1.23.*docs/simulators.md"):
        import_simulator("picky_simulator", "robocasa")


def test_an_unknown_name_lists_those_there_are_and_the_nearest() -> None:
    with pytest.raises(
        SimulatorError, match=r"libero has no suite 'libero_objects'.*'libero_goal'.*mean 'libero_object'"
    ):
        require_known("suite", "libero_objects", ["libero_goal", "libero_object"], "libero")


def test_options_are_laid_over_defaults() -> None:
    assert read_options("x", {"a": 2}, {"a": 1, "b": None}) == {"a": 2, "b": None}


def test_a_misspelt_option_is_refused() -> None:
    with pytest.raises(SimulatorError, match=r"libero has no option \['asets'\]; allowed are \['assets'\]"):
        read_options("libero", {"asets": "x"}, {"assets": None})


@pytest.mark.parametrize(("value", "kind"), [(3, "str"), ([], "str")])
def test_an_option_of_the_wrong_type_is_refused(value: object, kind: str) -> None:
    with pytest.raises(SimulatorError, match=f"option assets is .*it must be a {kind}"):
        read_options("libero", {"assets": value}, {"assets": None})


def test_the_question_is_asked_in_the_workers_own_interpreter(tmp_path: Path) -> None:
    """A virtual environment with numpy alone has no RoboCasa, whatever this process has."""
    venv.create(tmp_path / "bare", with_pip=False)
    site = next((tmp_path / "bare" / "lib").glob("python*/site-packages"))
    for part in Path(np.__file__).parents[1].glob("numpy*"):
        (site / part.name).symlink_to(part)
    python = tmp_path / "bare" / "bin" / "python"
    config = SimulatorConfig("robocasa", ["all"], ["robot0_eye_in_hand"], python=str(python))
    with pytest.raises(SimulatorError, match=r"robocasa is not installed in .*bare/bin/python; make sim-robocasa"):
        check_simulator(config)
