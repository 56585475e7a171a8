"""What a result depends on besides the config: package versions, commit, device, command line."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any


def describe_environment() -> dict[str, Any]:
    """Collect versions as a JSON-able mapping; needs no import of the packages themselves."""
    packages = {dist.metadata["Name"]: dist.version for dist in distributions() if dist.metadata["Name"]}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "git_commit": git_commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "working_directory": str(Path.cwd()),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def git_commit() -> str | None:
    """Commit of this source tree, with ``-dirty`` where files differ from it.

    None for an installed copy: the repository that a virtual environment lies in, if any, is another project's.
    """
    root = Path(__file__).resolve().parents[1]
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root:
            return None
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("-dirty" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # a hook names its own
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=root, env=own, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()
