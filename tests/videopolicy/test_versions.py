"""Which commit is recorded beside a result."""

import subprocess
from pathlib import Path

import pytest

from videopolicy import versions


def repository(folder: Path) -> Path:
    folder.mkdir(parents=True)
    person = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], [*person, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def test_an_installed_copy_in_another_project_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `.venv/lib/python3.11/site-packages` inside the repository of somebody's own project."""
    other = repository(tmp_path / "other")
    package = other / ".venv" / "site-packages" / "videopolicy"
    package.mkdir(parents=True)
    monkeypatch.setattr(versions, "__file__", str(package / "versions.py"))
    assert versions.git_commit() is None


def test_the_source_tree_s_own_commit_is_recorded_also_under_a_hook_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = repository(tmp_path / "own"), repository(tmp_path / "other")
    (own / "videopolicy").mkdir()
    monkeypatch.setattr(versions, "__file__", str(own / "videopolicy" / "versions.py"))
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=own, capture_output=True, text=True, check=True)
    assert versions.git_commit() == head.stdout.strip()
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert versions.git_commit() == head.stdout.strip()
