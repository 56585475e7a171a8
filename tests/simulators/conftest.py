"""The counting simulator, importable by workers through this process's path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from simulators.config import SimulatorConfig


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimulatorConfig]:
    """Make a config of the counting simulator from its tasks and further arguments."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def make(tasks: list[str] | None = None, **arguments: object) -> SimulatorConfig:
        settings: dict[str, object] = {"cameras": ["left"], "image_size": 4, "suite": "counting", **arguments}
        return SimulatorConfig("counting_simulator:CountingSimulator", tasks or ["up"], **settings)  # type: ignore[arg-type]

    return make
