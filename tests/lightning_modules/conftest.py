"""The counting simulator is shared with tests/simulators; steps whose draws belong to the windows."""

import pytest

from tests.simulators.conftest import counting
from tests.window_steps import STEPS

__all__ = ["counting"]


@pytest.fixture
def window_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """All stages train with the steps of tests/window_steps.py."""
    for stage, step in STEPS.items():
        monkeypatch.setattr(stage, "training_step", step)
