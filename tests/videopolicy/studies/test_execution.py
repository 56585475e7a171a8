"""How a machine is shared among the runs of a study, and the commands of a run."""

from pathlib import Path

import pytest
import torch

from tests.videopolicy.studies.test_definition import write
from videopolicy.studies import execution
from videopolicy.studies.definition import read_study
from videopolicy.studies.execution import environments, tasks_of
from videopolicy.studies.runs import runs_of


def test_every_slot_has_a_gpu_or_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "num_cores", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert environments(2) == [{"OMP_NUM_THREADS": "4", "LP_NUM_THREADS": "4"}] * 2
    assert len(environments(None)) == 4
    assert environments(1) == [{}], "one run has the whole machine"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in environments(None)] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in environments(3)] == ["5", "7", "5"]


def test_a_run_trains_on_the_shared_stage_1_and_is_evaluated_at_every_level(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, variation={"position": [0, 1.5]}, seeds=[0, 1]))
    stage1, first, other_stage1, _ = tasks_of(study, runs_of(study), tmp_path / "out")
    assert first.needs == stage1.name != other_stage1.name
    (train,) = stage1.commands()
    assert (train.part, train.resumed) == ("video", False)
    assert train.words[-4:-1] == ("--stage", "video", "--run_dir")
    action, standard, varied = first.commands()
    handoff = action.words[list(action.words).index("--handoff") + 1]
    assert handoff == f"{train.words[-1]}/handoff"
    assert "--variation" not in standard.words
    assert "position=1.5" in varied.words
    assert [part.words[list(part.words).index("--episodes") + 1] for part in (standard, varied)] == ["2", "2"]
    assert (tmp_path / "out" / "runs" / "two_stage" / "k1" / "seed0" / "experiment.yaml").is_file()


def test_a_blind_row_trains_nothing_and_is_one_run_whatever_the_seed(tmp_path: Path) -> None:
    rows = {"two_stage": {}, "replay": {"policy": "replay", "overrides": {"data": {"init_args": {"paths": "d.hdf5"}}}}}
    study = read_study(write(tmp_path, rows=rows, seeds=[0, 1], action_demos=[1, 5], videos=3))
    runs = [run for run in runs_of(study) if run.row == "replay"]
    assert len(runs) == 4
    assert len({run.fingerprint for run in runs}) == 1
    (task,) = tasks_of(study, runs[:1], tmp_path / "out")
    assert task.needs is None
    (evaluation,) = task.commands()
    words = list(evaluation.words)
    assert evaluation.part == "evaluation"
    assert words[words.index("--policy") + 1] == "replay"
    assert words[words.index("--demos") + 1] == "d.hdf5"
    assert words[words.index("--videos") + 1] == "3"
    assert "--checkpoint" not in words
    assert execution.hours_of(study, [])(runs[0], "action") == 0
