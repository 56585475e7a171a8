"""The two commands travel through files and names that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEP = re.compile(r"^\d+\. `(?P<path>[\w/]+\.py)`: (?P<text>.+)$", re.MULTILINE)


def test_every_step_names_a_file_and_what_it_defines() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## How two commands travel")[1].split("\n## ")[0]
    steps = [(match["path"], re.findall(r"`(\w+)`", match["text"])) for match in STEP.finditer(section)]
    assert len(steps) == len(re.findall(r"^\d+\.", section, re.MULTILINE)) >= 20
    kinds = ast.FunctionDef | ast.ClassDef
    for path, names in steps:
        tree = ast.parse((ROOT / path).read_text())
        defined = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
        assert names, path
        assert set(names) <= defined, f"{path} defines no {set(names) - defined}"
