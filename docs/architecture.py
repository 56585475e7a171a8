"""Draw the layers of the code from its imports: `python docs/architecture.py` writes docs/images/architecture.svg."""

import ast
import json
from pathlib import Path
from xml.etree import ElementTree

import tomllib
from matplotlib import pyplot, rcParams

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
WIDTH, HEIGHT = 2.5, 1.0  # of a box, in units of the axes
GAP_X, GAP_Y = 0.5, 0.7


def packages() -> list[str]:
    """The top-level packages, as pyproject.toml lists them."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    return [name for name in listed if "." not in name]


def imports(package: str, among: list[str]) -> list[str]:
    """Which of the others a package imports, anywhere in its files."""
    found: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            found |= {name.split(".")[0] for name in names}
    return sorted(found.intersection(among) - {package})


def edges() -> dict[str, list[str]]:
    """Package -> the packages that it imports."""
    names = packages()
    return {name: imports(name, names) for name in names}


def levels(graph: dict[str, list[str]]) -> dict[str, int]:
    """How far each package is from the bottom: one more than the highest that it imports."""
    level: dict[str, int] = {}
    while len(level) < len(graph):
        ready = {name for name, below in graph.items() if name not in level and set(below) <= set(level)}
        assert ready, f"the imports of {sorted(set(graph) - set(level))} go in a circle"
        level |= {name: 1 + max((level[other] for other in graph[name]), default=-1) for name in ready}
    return level


def skips(graph: dict[str, list[str]], name: str, other: str) -> bool:
    """Whether a package also reaches another through a third, so that an arrow of its own says nothing new."""
    return any(other in reachable(graph, third) for third in graph[name] if third != other)


def reachable(graph: dict[str, list[str]], name: str) -> set[str]:
    """All that a package imports, directly or not."""
    return set(graph[name]).union(*(reachable(graph, other) for other in graph[name]))


def draw(graph: dict[str, list[str]]) -> None:
    """Write the picture; the edges stand in its description, where a test reads them."""
    level = levels(graph)
    rows = {number: sorted(name for name in graph if level[name] == number) for number in set(level.values())}
    widest = max(len(row) for row in rows.values())
    place = {
        name: ((index - (len(row) - 1) / 2) * (WIDTH + GAP_X), number * (HEIGHT + GAP_Y))
        for number, row in rows.items()
        for index, name in enumerate(row)
    }
    pyplot.switch_backend("svg")
    rcParams["svg.hashsalt"] = "architecture"
    figure, axes = pyplot.subplots(figsize=(widest * (WIDTH + GAP_X), len(rows) * (HEIGHT + GAP_Y)))
    axes.set_xlim(-widest * (WIDTH + GAP_X) / 2, widest * (WIDTH + GAP_X) / 2)
    axes.set_ylim(-HEIGHT, len(rows) * (HEIGHT + GAP_Y) - GAP_Y)
    axes.axis("off")
    half = {}
    for name, (x, y) in place.items():
        summary = (ast.get_docstring(ast.parse((ROOT / name / "__init__.py").read_text())) or "").splitlines()[0]
        text = f"{name}/\n" + _wrapped(summary, 34)
        half[name] = 0.08 * (text.count("\n") + 1) + 0.1
        axes.text(x, y, text, ha="center", va="center", fontsize=7, bbox={"boxstyle": "round,pad=0.5", "fc": "#eef3fa"})
    for name, below in graph.items():
        x, y = place[name]
        for other in (other for other in below if not skips(graph, name, other)):
            end = (place[other][0], place[other][1] + half[other])
            axes.annotate("", xy=end, xytext=(x, y - half[name]), arrowprops={"arrowstyle": "->", "lw": 0.7}, zorder=0)
    figure.savefig(PICTURE, metadata={"Date": None, "Description": json.dumps(graph)}, bbox_inches="tight")


def drawn() -> dict[str, list[str]]:
    """The edges that the picture was drawn from."""
    description = next(element for element in ElementTree.parse(PICTURE).iter() if element.tag.endswith("description"))
    graph: dict[str, list[str]] = json.loads(description.text or "{}")
    return graph


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        lines = [*lines, word] if len(lines[-1]) + len(word) > width else [*lines[:-1], f"{lines[-1]} {word}".strip()]
    return "\n".join(lines)


if __name__ == "__main__":
    draw(edges())
    print(PICTURE)
