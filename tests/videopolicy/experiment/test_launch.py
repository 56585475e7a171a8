"""Rank variables: what a launcher set is believed, what another program left behind is not."""

import os
from typing import Any

import pytest
from lightning.pytorch.utilities import rank_zero_only

from files.errors import UserError
from videopolicy.experiment.launch import RANKS, is_one_process, settle_rank
from videopolicy.experiment.run_directory import is_rank_zero

ONE: dict[str, Any] = {"devices": 1, "accelerator": "cpu"}
TWO: dict[str, Any] = {"devices": 2, "accelerator": "cpu", "strategy": "ddp"}
SLURM = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "1", "SLURM_NODEID": "0", "SLURM_LOCALID": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_PORT": "1", "MASTER_ADDR": "a"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*RANKS, *TORCHRUN, *SLURM, "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)


def settle(trainer: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    settle_rank(trainer)


@pytest.mark.parametrize("trainer", [ONE, TWO])
@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "3"},
        {"LOCAL_RANK": "1"},
        {"NODE_RANK": "2"},
        {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"},
        {"SLURM_PROCID": "1", "SLURM_JOB_NAME": "bash", **SLURM},
        {"SLURM_PROCID": "1"},
        {"JSM_NAMESPACE_RANK": "1"},
        {"OMPI_COMM_WORLD_RANK": "1", "PMI_RANK": "1", "RANK": "1"},
    ],
    ids=lambda variables: "+".join(variables),
)
def test_variables_that_no_launcher_set_are_ignored_and_said(
    variables: dict[str, str],
    trainer: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settle(trainer, monkeypatch, **variables)
    assert is_rank_zero()
    assert rank_zero_only.rank == 0
    named = next(f"{name}={value}" for name, value in variables.items() if name in RANKS and value != "0")
    assert f"{named}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({**TORCHRUN, "RANK": "1"}, "TorchElastic started 2 processes (RANK=1, LOCAL_RANK=1)"),
        ({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0"}, "TorchElastic started 2 processes (WORLD_SIZE=2)"),
        ({**SLURM, "SLURM_PROCID": "1", "SLURM_JOB_NAME": "train"}, "SLURM started 2 processes (SLURM_PROCID=1)"),
    ],
    ids=["torchrun 1", "torchrun 0", "srun"],
)
def test_several_processes_for_a_trainer_of_one_are_refused(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError) as refused:
        settle(ONE, monkeypatch, **variables)
    assert said in str(refused.value)
    assert "trainer.devices is 1" in str(refused.value)


def test_a_batch_script_that_starts_one_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settle(ONE, monkeypatch, SLURM_PROCID="0", SLURM_JOB_NAME="train", **SLURM)
    assert os.environ["SLURM_PROCID"] == "0"


@pytest.mark.parametrize(
    "variables",
    [
        {**TORCHRUN, "RANK": "1"},
        {**SLURM, "SLURM_PROCID": "1", "SLURM_JOB_NAME": "train"},
        {"LOCAL_RANK": "1", "NODE_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1", "WORLD_SIZE": "2"},
    ],
    ids=["torchrun", "srun", "Lightning's own"],
)
def test_a_rank_of_a_launch_stays_one(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    settle(TWO, monkeypatch, **variables)
    assert not is_rank_zero()
    assert rank_zero_only.rank == 3


@pytest.mark.parametrize(
    ("devices", "one"),
    [
        *((one, True) for one in (1, "1", [3], "3,", None, "auto", -1)),
        *((several, False) for several in (2, "0,1", [0, 1])),
    ],
)
def test_a_trainer_says_how_many_processes_it_has(devices: Any, one: bool) -> None:  # noqa: ANN401
    assert is_one_process({"devices": devices, "accelerator": "cpu"}) is one
    assert not is_one_process({"devices": devices, "accelerator": "cpu", "num_nodes": 2})
