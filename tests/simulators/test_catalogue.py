import re
from pathlib import Path

import pytest
import tomllib

from simulators import catalogue
from simulators.catalogue import HERE, INSTALLATIONS, SIMULATORS, Installation, installed_packages
from simulators.libero_tasks import STEP_LIMITS
from simulators.robocasa_adapter import SUITES, V02_HORIZONS
from simulators.robosuite_adapter import TASKS

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()


def environment(folder: Path, **packages: str) -> Path:
    """A virtual environment with nothing in it but what its packages say of themselves."""
    site = folder / "lib" / "python3.10" / "site-packages"
    for name, version in packages.items():
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def test_every_simulator_and_every_suite_has_an_installation() -> None:
    assert set(SIMULATORS) == {entry.simulator for entry in INSTALLATIONS.values()}
    assert set(SIMULATORS) <= set(INSTALLATIONS)
    assert all(SIMULATORS[entry.simulator].adapter for entry in INSTALLATIONS.values())
    assert set(INSTALLATIONS["libero"].suites) == set(STEP_LIMITS)
    assert {suite for name in ("robocasa", "robocasa365") for suite in INSTALLATIONS[name].suites} == set(SUITES)


def test_the_numbers_of_tasks_are_the_adapters() -> None:
    assert INSTALLATIONS["robosuite"].suites == {"robosuite": len(TASKS)} == INSTALLATIONS["robosuite15"].suites
    assert INSTALLATIONS["robocasa"].suites == {"robocasa": len(V02_HORIZONS)}
    assert SIMULATORS["libero"].suite == next(iter(INSTALLATIONS["libero"].suites))


@pytest.mark.parametrize("name", INSTALLATIONS)
def test_the_make_targets_that_are_named_exist(name: str) -> None:
    entry = INSTALLATIONS[name]
    for target in re.findall(r"make ([\w-]+)", entry.command):
        assert f"\n{target}: {entry.environment}/" in MAKEFILE
    assert "make " in entry.command or entry.shared


def entry_in(folder: Path, *release: str, shared: bool = False) -> Installation:
    return Installation("robocasa", "RoboCasa", {"x": 1}, ("robocasa",), release, "make x", (), str(folder), shared)


def test_an_environment_of_its_own_is_read_without_starting_it(tmp_path: Path) -> None:
    folder = environment(tmp_path / "own", robocasa="0.2.0", numpy="1.23.5")
    assert installed_packages(folder) == {"robocasa": "0.2.0", "numpy": "1.23.5"}
    assert entry_in(folder, "0.2").found() == (f"{folder}/bin/python", "robocasa 0.2.0")
    assert entry_in(folder, "1.").found() is None
    assert entry_in(tmp_path / "gone", "0.2").found() is None


def test_this_python_comes_first_where_it_may_hold_the_simulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = environment(tmp_path / "own", robocasa="0.2.1")
    here = environment(tmp_path / "here", robocasa="0.2.0")
    monkeypatch.setattr(catalogue.sys, "path", [str(next(here.glob("lib/*/site-packages")))])
    assert entry_in(folder, "0.2", shared=True).found() == (HERE, "robocasa 0.2.0")
    assert entry_in(folder, "0.2").found() == (f"{folder}/bin/python", "robocasa 0.2.1")


@pytest.mark.parametrize("name", INSTALLATIONS)
def test_a_simulator_that_is_nowhere_is_not_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LIBERO takes any release, so that its release begins with the empty text, as a missing version does."""
    here = environment(tmp_path / "here", numpy="2.0.0")
    monkeypatch.setattr(catalogue.sys, "path", [str(next(here.glob("lib/*/site-packages")))])
    monkeypatch.chdir(tmp_path)
    assert INSTALLATIONS[name].found() is None


def test_install_advice_names_what_this_folder_can_do() -> None:
    """No registry holds this project under its name; the same command stands wherever one is given."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    advice = [entry.install for entry in SIMULATORS.values()] + [entry.command for entry in INSTALLATIONS.values()]
    for text in advice:
        for target in re.findall(r"make (sim-\w+|setup)", text):
            assert f"\n{target}:" in MAKEFILE
        for extra in re.findall(r"pip install (.*?) in", text):
            assert extra in [f"-e '.[{name}]'" for name in pyproject["project"]["optional-dependencies"]]
        assert "make " in text or "pip install" in text
    assert all(SIMULATORS[name].install in INSTALLATIONS[name].command for name in ("robosuite", "libero"))
