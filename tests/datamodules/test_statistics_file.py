import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules import ActionStatistics
from datamodules.statistics_file import load_or_compute

STATS = ActionStatistics((0.0, 1.0), (2.0, 3.0))


class Counter:
    """Counts how often statistics had to be computed."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> ActionStatistics:
        self.calls += 1
        return STATS


@pytest.fixture
def demo_file(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "a.hdf5"
    path.parent.mkdir()
    path.write_bytes(b"first")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_statistics_are_computed_once_and_stored_with_the_data(demo_file: Path) -> None:
    compute = Counter()
    for _ in range(3):
        assert load_or_compute([demo_file], [0, 1], "minmax", "error", compute) == STATS
    assert compute.calls == 1
    (stored,) = demo_file.parent.glob("action_statistics-*.json")
    assert json.loads(stored.read_text())["source"]["files"][0]["name"] == "a.hdf5"


def test_a_changed_file_or_setting_is_computed_again(demo_file: Path) -> None:
    compute = Counter()
    load_or_compute([demo_file], [0, 1], "minmax", "error", compute)
    demo_file.write_bytes(b"longer than first")
    load_or_compute([demo_file], [0, 1], "minmax", "error", compute)
    status = demo_file.stat()
    os.utime(demo_file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    load_or_compute([demo_file], [0, 1], "minmax", "error", compute)
    assert compute.calls == 3
    load_or_compute([demo_file], [0], "minmax", "error", compute)
    load_or_compute([demo_file], [0, 1], "quantile", "error", compute)
    load_or_compute([demo_file], [0, 1], "minmax", "zero", compute)
    assert compute.calls == 6


def test_statistics_move_with_the_folder(demo_file: Path, tmp_path: Path) -> None:
    compute = Counter()
    load_or_compute([demo_file], [0], "minmax", "error", compute)
    moved = demo_file.parent.rename(tmp_path / "elsewhere") / demo_file.name
    load_or_compute([moved], [0], "minmax", "error", compute)
    assert compute.calls == 1


def test_a_read_only_data_folder_falls_back_to_the_user_cache(
    demo_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text = Path.write_text

    def refusing(path: Path, text: str) -> int:  # root ignores permission bits, so refuse by hand
        if path.parent == demo_file.parent:
            raise PermissionError(30, "Read-only file system")
        return write_text(path, text)

    monkeypatch.setattr(Path, "write_text", refusing)
    compute = Counter()
    for _ in range(2):
        load_or_compute([demo_file], [0], "minmax", "error", compute)
    assert compute.calls == 1
    assert len(list((cache / "videopolicy").glob("action_statistics-*.json"))) == 1


def test_a_write_that_fails_midway_leaves_nothing_behind(demo_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert load_or_compute([demo_file], [0], "minmax", "error", Counter()) == STATS
    assert list(demo_file.parent.iterdir()) == [demo_file]


def test_damaged_stored_statistics_are_computed_again(demo_file: Path) -> None:
    compute: Callable[[], ActionStatistics] = Counter()
    load_or_compute([demo_file], [0], "minmax", "error", compute)
    (stored,) = demo_file.parent.glob("action_statistics-*.json")
    stored.write_text('{"source": ')
    assert load_or_compute([demo_file], [0], "minmax", "error", compute) == STATS
    assert json.loads(stored.read_text())["statistics"] == STATS.to_dict()
