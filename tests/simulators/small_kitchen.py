"""A kitchen of walls, counters and drawers for RoboCasa installs that have no objects, appliances or textures.

Imported in the worker's own Python, as `small_kitchen:SmallKitchenSimulator` with this folder on PYTHONPATH.
"""

from __future__ import annotations

import copy
import re
import shutil
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

from simulators.robocasa_adapter import RoboCasaSimulator

STYLE = {
    "cabinet": {"default": ["gray", "slab"], "shelves": "dark_wood_planks_shelves"},
    "counter": {"default": "gray_base_marble_top"},
    "floor": "default",
    "wall": "default",
    "openings_wall": "default",
    "box": "default",
}


def wall(name: str, side: str | None, size: list[float], pos: list[float]) -> dict[str, Any]:
    """One wall of the room."""
    sides = {"wall_side": side} if side else {}
    return {"name": name, "type": "wall", "size": size, "pos": pos, **sides}


def layout(width: float) -> dict[str, Any]:
    """A room with one counter; wider rooms are other scenes."""
    half = width / 2
    return {
        "room": {
            "walls": [
                wall("wall", None, [half, 1.5, 0.02], [half, 0, 1.5]),
                wall("wall_left", "left", [1.5, 1.5, 0.02], [0, -1.5, 1.5]),
                wall("wall_right", "right", [1.5, 1.5, 0.02], [width, -1.5, 1.5]),
            ],
            "floor": [{"name": "floor", "type": "floor", "size": [half, 1.5, 0.02], "pos": [half, -1.5, 0]}],
        },
        "main_group": {
            "bottom_row": [
                {"name": "counter_main", "type": "counter", "size": [2.0, 0.65, 0.92], "pos": [2.0, -0.325, 0.46]},
            ],
            "cabinets": [
                {
                    "name": "stack_1",
                    "type": "stack",
                    "levels": ["drawer"] * 4,
                    "percentages": [0.25] * 4,
                    "size": [0.6, 0.60, 0.84],
                    "pos": [2.0, -0.30, 0.47],
                },
            ],
        },
    }


class SmallKitchenSimulator(RoboCasaSimulator):
    """The RoboCasa adapter in two generated rooms, 4 m and 5 m wide."""

    @classmethod
    def require_assets(cls) -> None:
        """They are made in `build`."""

    def build(self, task: str) -> Any:  # noqa: ANN401
        """Fill in what the install lacks, then build as ever."""
        import robocasa
        from robocasa.models.scenes import kitchen_arena
        from robosuite.environments.base import REGISTERED_ENVS

        self._assets = tempfile.TemporaryDirectory()
        robocasa.models.assets_root = fill_assets(Path(robocasa.models.assets_root), Path(self._assets.name))
        create = kitchen_arena.create_fixtures
        kitchen_arena.create_fixtures = lambda layout_config, style_config, **kwargs: create(
            copy.deepcopy(layout_config), copy.deepcopy(style_config), **kwargs
        )
        REGISTERED_ENVS[task]._get_obj_cfgs = lambda env: []
        return super().build(task)

    def _make_args(self, task: str) -> dict[str, Any]:
        rooms = [(layout(4.0), STYLE), (layout(5.0), STYLE)]
        return {**super()._make_args(task), "layout_and_style_ids": rooms}


def fill_assets(bundled: Path, target: Path) -> str:
    """Copy the bundled assets and draw a plain PNG for every texture they name but lack."""
    shutil.copytree(bundled, target, dirs_exist_ok=True)
    for text in [*target.rglob("*.yaml"), *target.rglob("*.xml")]:
        base = target if text.suffix == ".yaml" else text.parent
        for name in re.findall(r"[\w./-]+\.png", text.read_text()):
            picture = (base / name).resolve()
            if not picture.exists() and target.resolve() in picture.parents:
                picture.parent.mkdir(parents=True, exist_ok=True)
                picture.write_bytes(plain_png(zlib.crc32(name.encode())))
    return str(target)


def plain_png(seed: int, size: int = 16) -> bytes:
    """A one-coloured RGB picture."""
    colour = bytes(80 + (seed >> shift) % 150 for shift in (0, 8, 16))
    rows = (b"\0" + colour * size) * size
    parts = [(b"IHDR", struct.pack(">2I5B", size, size, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
