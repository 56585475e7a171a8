"""Study files: the shipped ones, and what is refused in one sentence."""

from pathlib import Path

import pytest
import yaml

from files.errors import UserError
from tests.videopolicy.conftest import ROOT
from videopolicy.experiment.files import stage_config, stages_of_experiment
from videopolicy.studies.definition import read_study
from videopolicy.studies.runs import runs_of

STUDIES = sorted((ROOT / "experiments" / "studies").glob("*.yaml"))
LIFT = {
    "experiment": str(ROOT / "experiments" / "lift.yaml"),
    "protocol": str(ROOT / "experiments" / "protocols" / "lift.yaml"),
    "episodes": 2,
    "seeds": [0],
    "action_demos": [1],
    "rows": {"two_stage": {}},
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "mine.yaml"
    content = {key: value for key, value in {**LIFT, **changes}.items() if value != "gone"}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_shipped_study_says_its_command_and_cost_and_every_run_resolves(path: Path) -> None:
    header = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert f"videopolicy study -c experiments/studies/{path.name}" in header
    assert "Hardware:" in header
    assert "Expected:" in header
    study = read_study(path)
    assert study.cost.action > 0
    assert study.cost.evaluation > 0
    runs = runs_of(study)
    assert len({run.name for run in runs}) == len(runs)
    assert len(runs) == len(study.seeds) * len(study.action_demos) * len(study.experiments)
    for run in runs:
        config = stage_config(run.experiment, run.stage, [("run_dir", "r")])
        assert config["seed_everything"] == config["data"]["init_args"]["demo_seed"] == run.seed
        assert config.get("rollout") is None, "the study's own evaluation follows, by its protocol"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rowz": {}}, r"no key rowz; .*rows"),
        ({"rows": {"Two Stage": {}}}, r"rows\.Two Stage: a row's name is part of file names"),
        ({"rows": {"a": {"overlay": []}}}, r"no key rows\.a\.overlay; .*overlays"),
        ({"rows": {"a": {"policy": "untrained"}}}, r"rows\.a\.policy is 'untrained'; choose one of replay, zero"),
        ({"videos": -1}, r"videos is -1"),
        ({"rows": {}}, r"rows is \{\}"),
        ({"rows": "gone"}, r"\['rows'\] is missing"),
        ({"experiment": "gone"}, r"rows\.two_stage: no experiment"),
        ({"seeds": [0, 0]}, r"seeds is \[0, 0\]"),
        ({"seeds": [True]}, r"seeds is \[True\]"),
        ({"episodes": 0}, r"episodes is 0"),
        ({"action_demos": [0]}, r"action_demos is \[0\].*null for all"),
        ({"variation": {"position": "far"}}, r"variation is .*name one kind and its levels"),
        ({"variation": {"position": [0, 1]}, "action_demos": [1, 2]}, r"keep one of either"),
        ({"cost": {"vidoe": 1}}, r"no key cost\.vidoe; .*video"),
        ({"cost": {"video": "long"}}, r"give hours as numbers"),
    ],
)
def test_a_slip_is_one_sentence_that_names_file_and_key(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_study(write(tmp_path, **changes))
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_override_that_cannot_be_resolved_names_its_row(tmp_path: Path) -> None:
    rows = {"odd": {"overrides": {"data": {"init_args": {"frame_stride": "${data.nowhere}"}}}}}
    with pytest.raises(UserError, match=r"study mine: rows\.odd: .*nowhere"):
        runs_of(read_study(write(tmp_path, rows=rows)))


def test_a_row_is_laid_over_what_all_rows_have(tmp_path: Path) -> None:
    steps = {"stages": {"video": {"trainer": {"max_steps": 40}}}}
    rows = {
        "common": {},
        "half": {"overrides": {"stages": {"video": {"trainer": {"max_steps": "${times:0.5}"}}}}},
        "none": {"overlays": [str(ROOT / "experiments" / "controls" / "without_stage1.yaml")]},
    }
    study = read_study(write(tmp_path, rows=rows, overrides=steps))
    found = {row: part["stages"]["video"]["trainer"]["max_steps"] for row, part in study.experiments.items()}
    assert found == {"common": 40, "half": 20, "none": 0}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_row_of_a_shipped_study_is_accepted_by_the_classes_that_it_names(path: Path) -> None:
    from videopolicy.experiment.stage_run import StageRun

    study = read_study(path)
    last = {run.row: run for run in runs_of(study)}
    for run in last.values():
        for stage in stages_of_experiment(run.experiment):
            StageRun(stage_config(run.experiment, stage, [("stage", stage), ("run_dir", "r")]))
