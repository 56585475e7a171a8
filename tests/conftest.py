"""Fixtures that every test package uses."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """Folder with the arrays that prove equality with the published network."""
    root = Path(__file__).resolve().parents[1]
    for folder in (root.parent / "shared" / "parity", root / "tests" / "data" / "parity"):
        if (folder / "README.md").exists():
            return folder
    pytest.skip(f"parity arrays not found: neither {root.parent / 'shared' / 'parity'} nor tests/data/parity exists")
