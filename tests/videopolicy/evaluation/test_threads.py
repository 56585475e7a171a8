from __future__ import annotations

import pytest
import torch

from files.errors import UserError
from videopolicy.evaluation import threads


@pytest.mark.parametrize(
    ("cores", "workers", "device", "decided", "expected"),
    [
        (2, 2, "cpu", None, 1),
        (2, 1, "cpu", None, 1),
        (4, 1, "cpu", None, 3),
        (16, 2, "cpu", None, 6),
        (1, 4, "cpu", None, 1),
        (2, 2, "cuda:0", None, 6),
        (2, 2, "cpu", "6", 6),
    ],
)
def test_every_simulator_keeps_a_core_unless_a_gpu_or_the_environment_has_decided(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, device: str, decided: str | None, expected: int
) -> None:
    monkeypatch.setattr(threads, "num_cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if decided is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", decided)
    assert threads.chosen_threads(6, workers, device) == expected  # torch itself would take 6


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
    with pytest.raises(UserError, match="--threads 0"), threads.policy_threads(0, 1, "cpu"):
        pass
