"""Files of weights: every tensor in memory of its own, whole or not there, readable by others."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from files.errors import UserError
from networks.checkpoints import file as checkpoint_file
from networks.checkpoints.file import read_checkpoint, read_safetensors, write_checkpoint, write_safetensors

TABLE = {
    "a": torch.tensor([float("nan"), -0.0, 1.0]),
    "b": torch.arange(6).reshape(2, 3),
    "c": torch.ones((), dtype=torch.bfloat16),
}


def test_a_safetensors_file_is_read_in_groups_and_told_by_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_file, "GROUP_BYTES", 20)
    write_safetensors(TABLE, tmp_path / "table.safetensors")
    told: list[int] = []
    found = read_safetensors(tmp_path / "table.safetensors", told.append)
    assert {name: (tensor.dtype, tensor.tolist()) for name, tensor in found.items() if name != "a"} == {
        name: (tensor.dtype, tensor.tolist()) for name, tensor in TABLE.items() if name != "a"
    }
    assert torch.equal(found["a"].view(torch.int32), TABLE["a"].view(torch.int32))
    assert sum(told) == sum(tensor.nbytes for tensor in TABLE.values())
    assert len(told) > 1
    assert len({tensor.untyped_storage().data_ptr() for tensor in found.values()}) == len(TABLE)
    assert (tmp_path / "table.safetensors").stat().st_mode & 0o077  # not for its owner alone


def test_written_bytes_are_told(tmp_path: Path) -> None:
    told: list[int] = []
    write_checkpoint({"state_dict": TABLE}, tmp_path / "table.ckpt", told.append)
    assert sum(told) == (tmp_path / "table.ckpt").stat().st_size


def test_a_mapped_checkpoint_is_the_same(tmp_path: Path) -> None:
    write_checkpoint({"state_dict": TABLE}, tmp_path / "new.ckpt")
    torch.save({"state_dict": TABLE}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)  # cannot be mapped
    for name in ("new.ckpt", "old.ckpt"):
        found = read_checkpoint(tmp_path / name, mapped=True)["state_dict"]
        assert all(torch.equal(found[key], TABLE[key]) for key in "bc")


def test_a_cut_safetensors_file_is_called_damaged(tmp_path: Path) -> None:
    save_file(TABLE, tmp_path / "cut.safetensors")
    content = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-3])
    with pytest.raises(UserError, match=r"cut\.safetensors: damaged, or no \.safetensors file"):
        read_safetensors(tmp_path / "cut.safetensors")
