"""For `../rollout.py`: where the time of an episode goes, and what standard and cheap drawing cost and show."""

from __future__ import annotations

import io
import socket
import statistics
import time
from typing import Any

import numpy as np
from PIL import Image

from simulators import EpisodeSpec, SimulatorConfig, wire
from simulators.messages import Array, Images, Observation
from simulators.mujoco_simulator import MujocoSimulator
from simulators.rendering import CameraRenderer, choose_gl
from simulators.worker import load_adapter

Pictures = dict[str, Images]


def shares(config: SimulatorConfig, spec: EpisodeSpec, execute_steps: int) -> dict[str, float]:
    """Seconds of one scripted episode as a worker spends them, with pictures for every replan; this process runs it."""
    simulator = opened(config)
    simulator.reset(spec, render=True)  # builds; not counted
    seconds = dict.fromkeys(("reset", "physics", "drawing", "wire"), 0.0)
    observation = timed(seconds, "reset", simulator.reset, spec, False)
    expert, solved = simulator.make_expert(spec), False
    while not solved and simulator.steps < simulator.max_steps:
        pictures = timed(seconds, "drawing", simulator.render)
        seen = Observation(pictures, observation.proprio, observation.instruction, simulator.steps)
        timed(seconds, "wire", cross, seen)
        for _ in range(execute_steps):
            solved = solved or timed(seconds, "physics", simulator.step, np.asarray(expert.act(), dtype=np.float32))
    simulator.close()
    return {name: round(value, 4) for name, value in seconds.items()} | {"steps": simulator.steps}


def gains(config: SimulatorConfig, spec: EpisodeSpec, turns: int = 3) -> dict[str, float]:
    """Processor seconds with and without what the adapters leave out, by turns on the same episode.

    Raises:
        AssertionError: The states or the pictures differ; they have to be equal to the last bit.
    """
    simulator = opened(config)
    simulator.reset(spec, render=True)
    names = ("step_plain", "step_ours", "pictures_plain", "pictures_ours")
    spent: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(turns):
        ends = {}
        for name in names[:2]:
            simulator.reset(spec, render=False)
            expert, advance = simulator.make_expert(spec), simulator.advance if "ours" in name else simulator.env.step
            for _ in range(30):
                action = np.asarray(expert.act(), dtype=np.float32)
                began = time.process_time()
                advance(action)
                spent[name].append(time.process_time() - began)
            ends[name] = simulator.state()
        assert np.array_equal(*ends.values()), "the two ways of stepping end in different states"
        renderer = simulator._renderer
        assert renderer is not None, "the first reset has drawn"
        for name in names[2:]:
            renderer.only_visible = "ours" in name
            began = time.process_time()
            ends[name] = simulator.render()
            spent[name].append(time.process_time() - began)
        same = (np.array_equal(ends[names[2]][camera], ends[names[3]][camera]) for camera in config.cameras)
        assert all(same), "a geom that shows was left out"
    simulator.close()
    return {name: round(statistics.median(values), 5) for name, values in spent.items()}


def opened(config: SimulatorConfig) -> MujocoSimulator:
    """The adapter, in this process."""
    choose_gl(config.gl)
    simulator = load_adapter(config.name)(config)
    assert isinstance(simulator, MujocoSimulator), "only these have a renderer to compare"
    return simulator


def timed(seconds: dict[str, float], name: str, function: Any, *arguments: object) -> Any:  # noqa: ANN401
    """Call, and add the time it took."""
    began = time.perf_counter()
    result = function(*arguments)
    seconds[name] += time.perf_counter() - began
    return result


def cross(observation: Observation) -> Observation:
    """Send an observation to another socket and read it there."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)  # all of it fits, for nobody reads meanwhile
        wire.send(ours, observation)
        received: Observation = wire.receive(theirs)
    return received


def compare_drawing(config: SimulatorConfig, spec: EpisodeSpec, turns: int = 10) -> tuple[dict[str, Any], Pictures]:
    """Seconds for the pictures of all cameras, drawn by turns with and without each effect, and two of the pictures.

    Processor time is given beside wall time: on a busy machine it is the steadier of the two.
    """
    simulator = opened(config)
    simulator.reset(spec, render=False)
    model, data = simulator.raw_model, simulator.raw_data
    effects: dict[str, dict[str, Any]] = {
        "standard": {"shadows": True, "reflections": True, "multisampling": 4},
        "no shadows": {"reflections": True, "multisampling": 4},
        "no reflections": {"shadows": True, "multisampling": 4},
        "no multisampling": {"shadows": True, "reflections": True},
        "cheap": {},
    }
    shadow_map = model.vis.quality.shadowsize
    drawers, seen = {}, {}
    for name, settings in effects.items():
        model.vis.quality.shadowsize = shadow_map
        drawers[name] = CameraRenderer(model, config.cameras, config.image_size, **settings)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in effects}
    for _ in range(turns):
        for name, draw in drawers.items():
            wall, processor = time.perf_counter(), time.process_time()
            seen[name] = draw(data)
            spent[name].append((time.perf_counter() - wall, time.process_time() - processor))
    for draw in drawers.values():
        draw.close()
    simulator.close()
    rows = {
        name: [round(statistics.median(column), 4) for column in zip(*values, strict=True)]
        for name, values in spent.items()
    }
    grey = {camera: difference(seen["standard"][camera], seen["cheap"][camera]).mean() for camera in config.cameras}
    document = {
        "pictures": len(config.cameras),
        "image_size": config.image_size,
        "wall_s": {name: row[0] for name, row in rows.items()},
        "processor_s": {name: row[1] for name, row in rows.items()},
        "mean_difference_of_255": {camera: round(float(value), 2) for camera, value in grey.items()},
    }
    return document, {name: seen[name] for name in ("standard", "cheap")}


def difference(one: Array, other: Array) -> Array:
    """Absolute difference of two pictures, uint8."""
    return np.abs(one.astype(np.int16) - other).astype(np.uint8)


def side_by_side(pictures: Pictures, scale: int = 2, gain: int = 4) -> bytes:
    """A PNG: a row a camera; standard, cheap, and their difference, `gain` times as bright."""
    rows = []
    for camera, standard in pictures["standard"].items():
        cheap = pictures["cheap"][camera]
        bright = np.clip(difference(standard, cheap).astype(int) * gain, 0, 255).astype(np.uint8)
        rows.append(np.hstack([standard, cheap, bright]))
    sheet = Image.fromarray(np.vstack(rows))
    buffer = io.BytesIO()
    sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()
