"""What README.md and docs/ say exists: links, paths, targets, verbs, options, YAML, and the example simulator."""

import argparse
import ast
import importlib
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from rollouts import RolloutEngine
from rollouts.worker_process import check_simulator
from simulators import PolicyReply, PolicyRequest, SimulatorConfig
from videopolicy.evaluation.protocol import read_protocol
from videopolicy.experiment.command_line import CommandLine, parse
from videopolicy.experiment.files import TWO_STAGES, load_experiment, read_part
from videopolicy.main import VERBS, verb

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = (
    "networks|datamodules|simulators|rollouts|policies|lightning_modules|callbacks|videopolicy|experiments|tests|"
    "benchmarks|docs"
)
PLACEHOLDER = re.compile(r"[<>*{}]|\bX\b|\bFILE\b|\bDIR\b|\.\.\.|=\w*=")
# The first line of a YAML block that is a whole file: where it would stand, and for an overlay what it is laid over.
FILE_LINE = re.compile(r"# (?P<path>[\w./-]+\.yaml)(?:, over (?P<over>[\w./-]+\.yaml))?$")


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for found in re.finditer(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S):
            yield page, found[1]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def code(page: Path) -> list[str]:
    """Commands and names on a page: indented lines and inline code, without trailing comments."""
    text = prose(page)
    indented = [line.strip().partition("  #")[0].strip() for line in text.splitlines() if line.startswith("    ")]
    return [*indented, *re.findall(r"`([^`\n]+)`", text)]


def commands(program: str) -> list[str]:
    found = [text for page in PAGES for text in code(page) if text.startswith(f"{program} ")]
    return sorted({text for text in found if not PLACEHOLDER.search(text)})


def yaml_files() -> dict[str, tuple[str | None, str]]:
    """Path -> (file it is laid over, content) of every YAML block that is marked as a whole file."""
    marked = [(FILE_LINE.match(text.splitlines()[0]), text) for _, text in blocks("yaml")]
    return {mark["path"]: (mark["over"], text) for mark, text in marked if mark}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with experiments/ and the YAML files of the docs, as a reader would have put them."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    for path, (_, text) in yaml_files().items():
        (tmp_path / path).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parse_stages(line: CommandLine) -> None:
    """Parse the configs that a command composes, without building anything."""
    from videopolicy.experiment.stage_run import StageRun

    experiment = line.experiment()
    for stage in line.stages(experiment):
        StageRun(line.stage_config(experiment, stage))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(page))
    local = [target for target in targets if "://" not in target]
    assert not [target for target in local if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_of_the_repository_exist(page: Path) -> None:
    words = {word for text in code(page) for word in text.split()}
    paths = {word for word in words if re.match(rf"({FOLDERS})/", word) and not PLACEHOLDER.search(word)}
    assert not [path for path in paths if not (ROOT / path).exists() and path not in yaml_files()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_classes_and_arguments_are_those_of_the_code(page: Path) -> None:
    files = [path for folder in FOLDERS.split("|") for path in (ROOT / folder).rglob("*")]
    sources = [path for path in files if path.suffix in (".py", ".yaml")] + [ROOT / "Makefile"]
    known = set(re.findall(r"\w+", " ".join(path.read_text() for path in sources)))
    inline = {name for text in re.findall(r"`([^`\n]+)`", prose(page)) for name in re.findall(r"^[\w.]+", text)}
    names = {part for name in inline for part in name.split(".") if re.search(r"_|[a-z][A-Z]", part)}
    assert not sorted(names - known)


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {text.split()[1] for page in PAGES for text in code(page) if text.startswith("make ")}
    assert {"demo", "test", "train-video", "train-action"} <= named
    assert named <= targets


@pytest.mark.parametrize("command", commands("videopolicy"))
def test_videopolicy_commands_are_accepted(command: str) -> None:
    _, name, *arguments = shlex.split(command)
    assert name in VERBS
    parser = argparse.ArgumentParser(exit_on_error=False)
    module = verb(name)
    module.add_arguments(parser)
    if arguments and arguments != ["--help"]:
        parser.parse_args(arguments)


def test_every_verb_is_shown() -> None:
    assert {command.split()[1] for command in commands("videopolicy")} == set(VERBS)


@pytest.mark.parametrize("command", commands("lightning fit"))
def test_lightning_commands_are_accepted(command: str, workplace: Path) -> None:
    line = parse(shlex.split(command)[1:])
    if line.help:
        return
    line.experiment()
    if line.overrides:
        parse_stages(line)


@pytest.mark.parametrize("path", yaml_files())
def test_yaml_files_of_the_docs_parse(path: str, workplace: Path) -> None:
    over = yaml_files()[path][0]
    line = CommandLine("fit", configs=[over, path] if over else [path])
    if path.startswith("experiments/protocols/"):
        assert read_protocol(workplace / path).name == Path(path).stem
        line = CommandLine("fit", ["experiments/lift.yaml"], [("rollout.protocol", read_part(workplace / path))])
    parse_stages(line)


def test_yaml_files_name_both_kinds() -> None:
    overlays = [path for path, (over, _) in yaml_files().items() if over]
    assert len(overlays) >= 3
    assert {"experiments/stack.yaml", "experiments/protocols/point.yaml"} <= set(yaml_files())
    assert all((ROOT / over).is_file() for over, _ in yaml_files().values() if over)


def test_a_camera_is_swapped_in_one_line(workplace: Path) -> None:
    """README's claim: views, and the simulator's cameras, follow the data's."""
    line = CommandLine("fit", configs=["experiments/lift.yaml", "third_camera.yaml"])
    experiment = load_experiment(line.configs)
    from videopolicy.experiment.stage_run import StageRun

    configs = {stage: line.stage_config(experiment, stage) for stage in TWO_STAGES}
    assert [config["model"]["init_args"]["video"]["init_args"]["num_views"] for config in configs.values()] == [3, 3]
    rollout = StageRun(configs["action"]).document["rollout"]
    assert rollout["protocol"]["simulator"]["cameras"] == ["agentview", "robot0_eye_in_hand", "frontview"]


def test_python_examples_import_what_exists() -> None:
    for _, text in blocks("python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]


class Rightwards:
    """A policy for the example simulator."""

    def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
        return [PolicyReply(np.ones((8, 1), dtype=np.float32)) for _ in requests]


def test_the_example_simulator_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = next(text for _, text in blocks("python") if text.startswith("# point_simulator.py"))
    (tmp_path / "point_simulator.py").write_text(source)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    config = check_simulator(SimulatorConfig("point_simulator:PointSimulator", ["all"], ["front"], image_size=8))
    with RolloutEngine(config, execute_steps=8, record_episodes=1, record_stride=4) as engine:
        results = engine.run(Rightwards(), config.episodes(2), progress=False)
    assert [result.success for result in results] == [True, True]
    assert results[0].recording is not None
    assert results[0].recording.frames[-1]["front"][0, -1].tolist() == [255, 255, 255]
