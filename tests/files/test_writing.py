"""Small files are whole or not there, and a full disk is noticed beforehand."""

import errno
import os
from pathlib import Path

import pytest

from files.errors import UserError
from files.writing import require_room, write_json


def test_a_json_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "made" / "key.json"
    write_json(path, {"a": 1})
    assert path.stat().st_mode & 0o777 == 0o644

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"key\.json: could not be written \(No space left on device\); what was there"):
        write_json(path, {"a": 2})
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert list(path.parent.iterdir()) == [path]


def test_a_file_in_the_way_of_a_folder_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        write_json(tmp_path / "file" / "key.json", {})


def test_what_is_needed_and_what_is_free_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 4_000_000_000}))
    folder = tmp_path / "not" / "yet"
    require_room(folder, 4_000_000_000)
    require_room(folder, 5_000_000_000, reused=1_000_000_000)
    with pytest.raises(
        UserError, match=r"9,000.0 GB \(9000000000000 bytes\) are needed and 4.0 GB \(4000000000 bytes\)"
    ):
        require_room(folder, 9_000_000_000_000)
    assert not folder.parent.exists()
