"""The picture of the layers in docs/ is drawn from the imports that there are."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_picture_was_drawn_from_the_present_imports() -> None:
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
    assert spec is not None
    assert spec.loader is not None
    architecture = importlib.util.module_from_spec(spec)
    sys.modules["architecture"] = architecture
    spec.loader.exec_module(architecture)
    graph = architecture.edges()
    assert architecture.drawn() == graph, "run python docs/architecture.py"
    level = architecture.levels(graph)
    assert level["simulators"] == 0  # it is lent to another Python
    assert level["videopolicy"] == max(level.values())
