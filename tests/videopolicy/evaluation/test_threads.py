from __future__ import annotations

import pytest
import torch

from videopolicy.errors import CommandError
from videopolicy.evaluation import threads


@pytest.mark.parametrize(
    ("cores", "workers", "expected"), [(2, 2, 1), (2, 1, 1), (4, 1, 3), (16, 2, 6), (1, 4, 1)], ids=str
)
def test_every_simulator_keeps_a_core(monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, expected: int) -> None:
    monkeypatch.setattr(threads, "num_cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads.chosen_threads(6, workers, "cpu") == expected  # torch itself would take 6


def test_what_the_environment_or_a_gpu_has_decided_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "num_cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads.chosen_threads(6, 2, "cuda:0") == 6
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert threads.chosen_threads(6, 2, "cpu") == 6


def test_the_number_holds_while_it_lasts_even_if_it_ends_badly() -> None:
    before = torch.get_num_threads()
    seen = []

    def fail() -> None:
        with threads.policy_threads(before + 1, 2, "cpu"):
            seen.append(torch.get_num_threads())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (seen, torch.get_num_threads()) == ([before + 1], before)


def test_no_threads_are_refused() -> None:
    with (
        pytest.raises(CommandError, match="--threads 0: the policy needs at least one"),
        threads.policy_threads(0, 1, "cpu"),
    ):
        pass
