"""The lock of a folder."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from files.locks import HeldError, hold_folder

HOLD = "import sys, time; from pathlib import Path; from files.locks import hold_folder\n"
HOLD += "lock = hold_folder(Path(sys.argv[1])); print(flush=True); time.sleep(60)"


def test_a_second_process_is_told_the_first_ones_id(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=root, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(HeldError) as held:
            hold_folder(tmp_path)
        assert held.value.holder == f"process {holder.pid}"
    finally:
        holder.kill()
        holder.wait()
    hold_folder(tmp_path).release()
    assert (tmp_path / ".lock").read_text() == str(os.getpid())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_warned_of(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    hold_folder(tmp_path).release()
    assert "has no locks" in capsys.readouterr().err
    warnings: list[str] = []
    hold_folder(tmp_path, warnings.append).release()
    assert "has no locks" in warnings[0]
    assert not capsys.readouterr().err
