"""Checkpoints that are whole or not there, and that run no code."""

import errno
import os
import pickle
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.atomic_checkpoint_io import AtomicCheckpointIO
from files.errors import UserError

OLD = {"state_dict": {"w": torch.arange(4.0)}, "global_step": 1}


class Evil:
    """Pickles as a call of ``os.system``."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)
    return path


@pytest.fixture
def small_disk() -> Iterator[None]:
    """The kernel cuts every file of this process off at 100 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def test_what_is_saved_is_what_is_loaded(path: Path) -> None:
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert loaded["global_step"] == 1
    assert torch.equal(loaded["state_dict"]["w"], torch.arange(4.0))


@pytest.mark.usefixtures("small_disk")
def test_a_file_that_cannot_be_written_whole_leaves_the_previous_one_and_no_rubbish(path: Path) -> None:
    with pytest.raises(UserError, match=r"last\.ckpt: could not be written .*what was there before is whole"):
        AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.zeros(100_000)}}, path)
    assert AtomicCheckpointIO().load_checkpoint(path)["global_step"] == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]


def test_a_full_disk_says_so_and_what_to_do(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*free some space .* start the same command"):
        AtomicCheckpointIO().save_checkpoint({"global_step": 2}, path)
    assert AtomicCheckpointIO().load_checkpoint(path)["global_step"] == 1


def test_a_folder_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        AtomicCheckpointIO().save_checkpoint(OLD, tmp_path / "file" / "last.ckpt")


@pytest.mark.parametrize("asked", [None, False, True])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, asked: bool | None) -> None:
    path, mark = tmp_path / "evil.ckpt", tmp_path / "mark"
    torch.save({"state_dict": {}, "hyper_parameters": Evil(mark)}, path)
    with pytest.raises(UserError, match=r"evil\.ckpt: holds pickled objects .* is not loaded"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=asked)
    assert not mark.exists()


def test_a_bare_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "evil.ckpt", tmp_path / "mark"
    path.write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(UserError, match="is not loaded"):
        AtomicCheckpointIO().load_checkpoint(path)
    assert not mark.exists()


def test_a_truncated_checkpoint_is_called_damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="damaged or no checkpoint") as caught:
        AtomicCheckpointIO().load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.ckpt: no such checkpoint"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "none.ckpt")
