"""Which runs there are, which stage 1 each reads, and which machine runs them."""

from pathlib import Path

import yaml

from tests.videopolicy.conftest import ROOT
from tests.videopolicy.studies.test_definition import write
from videopolicy.experiment.files import load_experiment, stage_config
from videopolicy.studies.definition import read_study
from videopolicy.studies.runs import Run, runs_of, share, write_composed

CONTROLS = ROOT / "experiments" / "controls"
ROWS = {
    "two_stage": {},
    "without_stage1": {"overlays": [str(CONTROLS / "without_stage1.yaml")]},
    "observation": {"overlays": [str(CONTROLS / "observation_features.yaml")]},
    "alone": {"overlays": [str(CONTROLS / "stage1_on_action_demos.yaml")]},
    "slower": {"overrides": {"stages": {"action": {"trainer": {"max_steps": "${times:2}"}}}}},
    "longer": {"overrides": {"stages": {"video": {"trainer": {"max_steps": "${times:2}"}}}}},
}


def runs(folder: Path) -> dict[str, Run]:
    study = read_study(write(folder, rows=ROWS, seeds=[0, 1], action_demos=[2, 5]))
    return {run.name: run for run in runs_of(study)}


def keys(found: dict[str, Run], row: str) -> list[str]:
    """Key of stage 1 at (k 2, seed 0), (k 5, seed 0), (k 2, seed 1)."""
    chosen = [found[f"{row}_k{k}_seed{seed}"].stage1 for k, seed in ((2, 0), (5, 0), (2, 1))]
    return [stage1.key for stage1 in chosen if stage1 is not None]


def test_stage_1_is_shared_where_its_resolved_config_is_the_same(tmp_path: Path) -> None:
    found = runs(tmp_path)
    few, more, other = keys(found, "two_stage")
    assert few == more, "stage 1 watches every demo, whoever has actions"
    assert few != other, "the training seed counts"
    assert keys(found, "slower") == [few, more, other], "what the action stage does is its own"
    assert keys(found, "without_stage1") == keys(found, "observation")
    assert not {*keys(found, "without_stage1"), *keys(found, "longer")} & {few, other}
    assert len({*keys(found, "alone"), few, other}) == 5, "which demos it watches depends on k and seed"
    assert [run.name for run in found.values()][:7][-1] == "two_stage_k5_seed0", "a seed's runs come together"


def test_the_shared_stage_1_is_trained_without_what_only_actions_need(tmp_path: Path) -> None:
    found = runs(tmp_path)
    for row, watched in (("two_stage", None), ("alone", 5)):
        stage1 = found[f"{row}_k5_seed1"].stage1
        assert stage1 is not None
        written = load_experiment([write_composed(stage1.experiment, tmp_path / row)])
        data = stage_config(written, "video", [("run_dir", "r")])["data"]["init_args"]
        assert (data["action_demos"], data["video_demos"]) == (None, watched)
    assert not found["observation_k2_seed0"].stage1.is_trained  # type: ignore[union-attr]


def test_a_written_experiment_is_the_run_itself(tmp_path: Path) -> None:
    run = runs(tmp_path)["slower_k2_seed1"]
    path = write_composed(run.experiment, tmp_path / "run")
    again = load_experiment([path])
    for stage in ("video", "action"):
        assert stage_config(again, stage, [("run_dir", "r")]) == stage_config(run.experiment, stage, [("run_dir", "r")])
    assert yaml.safe_load(path.read_text())["stages"]["action"]["trainer"]["max_steps"] == 2000


def test_machines_share_the_runs_and_never_a_stage_1(tmp_path: Path) -> None:
    every = list(runs(tmp_path).values())
    parts = [share(every, index, 3) for index in (1, 2, 3)]
    assert sorted(run.name for part in parts for run in part) == sorted(run.name for run in every)
    stages1 = [{run.stage1.key for run in part if run.stage1} for part in parts]
    assert not stages1[0] & stages1[1] | stages1[0] & stages1[2] | stages1[1] & stages1[2]
    assert max(map(len, parts)) - min(map(len, parts)) <= 4
    assert share(every, 1, 1) == every
