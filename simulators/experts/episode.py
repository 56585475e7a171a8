"""Run a scripted expert through one episode and keep it as a demo; runs inside a worker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulators.experts.base import Expert
from simulators.messages import Array, DemoEpisode, EpisodeSpec, Images, Transition
from simulators.protocol import DemoSimulator


@dataclass(frozen=True)
class ExpertSettings:
    """How demos are varied.

    The executed action is the expert's plus first-order autoregressive noise; the recorded one is the expert's own, so
    the data shows how to recover.

    Args:
        noise: Standard deviation of the noise in action units, times the expert's own `noise_scale`.
        correlation: Share of the noise that stays from one step to the next.
        random_steps: Up to this many unrecorded random steps come first.
        mistakes: Chance that an unrecorded mistake of the expert comes next, so that the demo shows how to mend it.
        tail_steps: Recording goes on for this many steps after success.
    """

    noise: float = 0.3
    correlation: float = 0.6
    random_steps: int = 3
    mistakes: float = 0.3
    tail_steps: int = 5


def record_episode(sim: DemoSimulator, spec: EpisodeSpec, settings: ExpertSettings) -> DemoEpisode:
    """Drive the expert without rendering; draw the pictures afterwards from the recorded states, if it succeeded."""
    sim.reset(spec, render=False)
    expert = sim.make_expert(spec)
    rng = np.random.default_rng(spec.seed)
    for _ in range(rng.integers(settings.random_steps + 1)):
        action = np.zeros(sim.action_dim, dtype=np.float32)
        translation = action[:-1][:3]
        translation[:] = rng.uniform(-1.0, 1.0, len(translation))
        action[-1] = -1.0  # an open gripper, in every simulator here
        sim.step(action)
    if rng.uniform() < settings.mistakes:
        for action in expert.mistake(rng):
            sim.step(action)

    states: list[Array] = []
    actions: list[Array] = []
    noise = np.zeros(sim.action_dim)
    solved_at: int | None = None
    while len(actions) < sim.max_steps:
        states.append(sim.state())
        actions.append(np.asarray(expert.act(), dtype=np.float32))
        fresh = rng.standard_normal(sim.action_dim)
        noise = settings.correlation * noise + np.sqrt(1.0 - settings.correlation**2) * fresh
        noisy_action = actions[-1] + settings.noise * noise * expert.noise_scale()
        solved = sim.step(np.clip(noisy_action, -1.0, 1.0))
        if solved and solved_at is None:
            solved_at = len(actions)
        if solved_at is not None and len(actions) >= solved_at + settings.tail_steps:
            break

    if solved_at is None:
        return DemoEpisode(False, len(actions), None, {}, None, sim.instruction, {})
    attrs = sim.demo_attrs()
    frames, vectors = [], []
    for state in states:
        sim.restore(state)
        frames.append(sim.render())
        vectors.append(sim.proprio())
    proprio = {name: np.stack([vector[name] for vector in vectors]) for name in vectors[0]}
    images = {camera: np.stack([frame[camera] for frame in frames]) for camera in frames[0]}
    return DemoEpisode(True, len(actions), np.stack(actions), images, np.stack(states), sim.instruction, attrs, proprio)


def step_expert(sim: DemoSimulator, expert: Expert, num_steps: int, render: bool, record_stride: int) -> Transition:
    """Let the expert act for up to `num_steps` steps, without noise: `Simulator.step_chunk` with a closed loop.

    Args:
        sim: The simulator, in the middle of an episode.
        expert: The episode's expert.
        num_steps: Steps to take unless the episode ends before.
        render: See `Simulator.step_chunk`.
        record_stride: See `Simulator.step_chunk`.
    """
    frames: list[Images] = []
    executed = 0
    while True:
        action = np.asarray(expert.act(), dtype=np.float32)
        executed += 1
        transition = sim.step_chunk(action[None], render and executed == num_steps, record_stride)
        frames += transition.frames
        if transition.done or executed == num_steps:
            return Transition(transition.observation, transition.success, transition.done, executed, frames)
