"""The replan benchmark with tiny networks: the same code path, and both orders of work give the same actions."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks import replan as benchmark
from benchmarks import replan_memory
from benchmarks.parts.random_stage import build
from benchmarks.parts.replan_order import ALL, EXACT, exact, replan
from networks import NetworkError, Sampler
from tests.videopolicy.conftest import tiny_overlay

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["--size", "full", "--device", "cpu", "--steps", "2", "--turns", "1"]


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Tiny networks."""
    folder = tmp_path_factory.mktemp("replan")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_overlay(ROOT / "experiments" / "robocasa.yaml", folder, 2)))
    return str(path)


@pytest.fixture(scope="module")
def stage(overlay: str) -> Any:  # noqa: ANN401 - an action stage
    """With two steps."""
    built = build(benchmark.parse_arguments([*WORDS, "--overlay", overlay]), "action")
    built.sampler = Sampler(2, guidance=2.0)
    return built


@pytest.fixture
def measured(stage: Any, overlay: str) -> Callable[..., dict[str, Any]]:  # noqa: ANN401
    """What the benchmark reports with some more options."""

    def measure(*words: str) -> dict[str, Any]:
        args = benchmark.parse_arguments([*WORDS, "--overlay", overlay, *words])
        return benchmark.measure(stage, args, torch.device("cpu"))

    return measure


def test_both_orders_of_work_give_the_same_actions_and_ours_takes_less(
    measured: Callable[..., dict[str, Any]],
) -> None:
    result = measured("--choices", "no_decode,bfloat16")
    assert result["float32_difference"] < 1e-3  # from sigma 700
    assert result["ratio"] == result["baseline"] / result["ours"]
    work = [result["sides"][name]["flop"] for name in ("one_pass", "exact", "published")]
    assert work == sorted(set(work))
    assert all(result["sides"][name]["peak_bytes"] > 10**6 for name in ("one_pass", "exact", "published"))
    assert set(result["choices"]) == {"no_decode", "bfloat16"}
    assert {"name", "ours", "baseline", "ratio", "unit", "hardware", "commit", "date"} <= set(result)


@pytest.mark.parametrize("name", EXACT)
def test_a_shortcut_alone_changes_nothing_but_rounding(stage: Any, name: str) -> None:  # noqa: ANN401
    published = replan(stage, frozenset(), nullcontext())
    assert torch.allclose(replan(stage, frozenset({name}), nullcontext()), published, rtol=1e-3, atol=1e-4)


def test_all_shortcuts_together_are_what_a_rollout_runs(stage: Any) -> None:  # noqa: ANN401
    assert torch.allclose(replan(stage, ALL, nullcontext()), exact(stage), rtol=1e-4, atol=1e-5)


def test_one_that_runs_out_of_memory_does_not_end_the_others(
    measured: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any) -> None:  # noqa: ANN401
        raise torch.OutOfMemoryError

    monkeypatch.setattr(benchmark, "exact", too_large)
    monkeypatch.setattr(benchmark, "float32_difference", lambda _: 0.0)
    result = measured()
    assert result["sides"]["exact"] == {"failure": "out of memory"}
    assert result["ours"] is None
    assert result["one_pass_ratio"] > 0


def test_ours_is_estimated_to_take_less_memory_and_most_of_it_is_weights(overlay: str) -> None:
    found = replan_memory.measure(benchmark.parse_arguments([*WORDS, "--overlay", overlay]))
    assert found["baseline"] > found["ours"] > found["exact"]["weights"] > 10**6
    assert found["published"]["weights"] < 2 * found["exact"]["weights"]  # autoencoder and text tower stay in float32
    assert found["ratio"] == found["baseline"] / found["ours"]


def test_an_unknown_shortcut_is_refused(measured: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(NetworkError, match="one_token"):
        measured("--choices", "magic")
