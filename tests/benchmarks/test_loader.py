"""The loader's benchmark on small pictures: the three readers see the same windows, and it prints its lines."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

loader = importlib.import_module("benchmarks.loader")


def test_the_baseline_reads_the_same_pictures_as_ours(tmp_path: Path) -> None:
    loader.write_demos(tmp_path / "demos.hdf5", 2, 40, 16, "gzip")
    data = loader.data_module(tmp_path / "demos.hdf5", 16)
    plain = loader.PlainReader(data)
    plain.jitter = torch.nn.Identity()
    for index in (0, 35, 60):
        ours = data.preprocessing.to_float(data.train_set[index].frames)
        assert torch.allclose(plain(index)[:, :2], ours[:, :2], atol=1e-6)
    inside = data.preprocessing.to_float(data.train_set[3].frames)
    assert torch.allclose(plain(3), inside, atol=1e-6)


@pytest.fixture
def threads() -> Iterator[None]:
    """Give this process its threads back; the benchmark takes one, and the processes that it forks need that."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_every_comparison_ends_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--size", "32", "--demos", "2", "--steps", "33", "--samples", "2", "--turns", "1"]
    assert loader.main(arguments) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [result["name"] for result in results] == ["loader, plain", "loader, gzip"]
    for result in results:
        assert list(result["settings"]) == ["baseline", "ours", "cached"]
        assert all(ratio["ratio"] > 0 for ratio in result["ratios"].values())
