"""The simulator's side of the border: serve one adapter over a socket until the other side goes away.

Started by `rollouts/worker_process.py`. Whatever a simulator prints goes to stderr; the socket is its own file
descriptor.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import traceback
from dataclasses import replace
from typing import Any

from simulators import wire
from simulators.catalogue import entry
from simulators.config import SimulatorConfig
from simulators.describe import describe, simulator_versions
from simulators.errors import SimulatorError
from simulators.experts.base import Expert
from simulators.experts.episode import record_episode, step_expert
from simulators.messages import Array, EpisodeSpec, Images, Observation, Transition
from simulators.protocol import Simulator
from simulators.rendering import choose_gl
from simulators.variations import require_variable, reworded


class Worker:
    """Executes requests on one adapter, which is imported with the first request."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self._simulator: Any = None
        self._spec: EpisodeSpec | None = None
        self._expert: Expert | None = None  # of the episode under way
        self._seen: list[Observation] = []  # the last ones of the episode

    @property
    def simulator(self) -> Any:  # noqa: ANN401 - whichever protocol the verb needs
        """The adapter, made on first use so that import errors answer a request."""
        if self._simulator is None:
            self._simulator = self.adapter()(self.config)
        return self._simulator

    def adapter(self) -> type[Simulator]:
        """The adapter's class, the OpenGL backend being chosen before anything imports mujoco."""
        adapter = load_adapter(self.config.name)
        if adapter.uses_gl:
            choose_gl(self.config.gl)
        return adapter

    def handle(self, verb: str, arguments: dict[str, Any]) -> Any:  # noqa: ANN401
        """Execute one request.

        The verbs are the protocol's methods and `step_expert` (the scripted expert chooses), `record` (a scripted
        demo), `versions`, `describe` and `survey` (what `Survey` holds).
        """
        if verb == "versions":
            return simulator_versions()
        if verb == "describe":
            return describe(self.adapter(), self.config)
        if verb == "check":
            return self._check()
        if verb == "survey":
            tasks, words = self._check(), getattr(self.adapter(), "instructions", None)
            words_by_task = {} if words is None else words(self.config)
            return {"tasks": tasks, "packages": simulator_versions(), "instructions": words_by_task}
        if verb == "record":
            return self._worded(record_episode(self.simulator, **arguments), arguments["spec"])
        if verb == "reset":
            self._spec, self._expert = arguments["spec"], None
            self._seen = [self.simulator.reset(**arguments)]
            return self._described(self._seen[0])
        transition: Transition
        if verb == "step_expert":
            transition = step_expert(self.simulator, self.expert, **arguments)
        else:
            assert verb == "step_chunk", verb
            transition = self.step_chunk(**arguments)
        return replace(transition, observation=self._described(transition.observation))

    def step_chunk(self, actions: Array, render: bool, record_stride: int, num_observations: int = 1) -> Transition:
        """See `Simulator.step_chunk`; the observation at the end has those of the steps before it with it.

        Args:
            actions: As there.
            render: As there.
            record_stride: As there.
            num_observations: Wanted at the end; drawn are only these.
        """
        if num_observations == 1:
            last: Transition = self.simulator.step_chunk(actions, render, record_stride)
            return last
        frames: list[Images] = []
        seen, num_steps = self._seen, 0
        first = max(1, len(actions) - num_observations + 1)
        for part in (actions[:first], *(actions[step : step + 1] for step in range(first, len(actions)))):
            last = self.simulator.step_chunk(part, render, record_stride)
            frames, num_steps = frames + last.frames, num_steps + last.num_steps
            if last.observation is None:
                return replace(last, frames=frames, num_steps=num_steps)
            seen = [*seen, last.observation][-num_observations:]
        self._seen = seen
        return replace(last, observation=replace(seen[-1], past=seen[:-1]), frames=frames, num_steps=num_steps)

    @property
    def expert(self) -> Expert:
        """The scripted expert of the episode under way; `SimulatorError` where there is none."""
        if self._expert is None:
            self._expert = self.simulator.make_expert(self._spec)
        return self._expert

    def _check(self) -> list[str]:
        """Tasks of the suite; `SimulatorError` where the simulator does not run as configured."""
        require_variable(self.config.name, self.config.variation, getattr(self.adapter(), "variations", ()))
        return self.adapter().check(self.config)

    def _described(self, observation: Observation | None) -> Observation | None:
        """Add what the adapter knows of the task, and its words as they were asked for."""
        if observation is None:
            return None
        assert self._spec is not None
        described: Observation = self._worded(observation, self._spec)
        width, limit = getattr(self.simulator, "action_dim", 0), getattr(self.simulator, "max_steps", 0)
        return replace(described, action_dim=int(width), max_steps=int(limit or 0))

    def _worded(self, reply: Any, spec: EpisodeSpec) -> Any:  # noqa: ANN401 - an observation or a demo
        """Choose and vary the words, so that no adapter has to."""
        words = self.config.instructions.get(spec.task, reply.instruction)
        return reworded(replace(reply, instruction=words), spec, self.config.variation.get("instruction", 0.0))

    def close(self) -> None:
        """Free the simulator."""
        if self._simulator is not None:
            self._simulator.close()


def serve(sock: socket.socket) -> None:
    """Answer requests until the socket closes; the first message is the config."""
    worker = Worker(SimulatorConfig(**wire.receive(sock)))
    while True:
        try:
            request = wire.receive(sock)
        except ConnectionError:
            break
        try:
            reply = {"value": worker.handle(request["verb"], request["arguments"])}
        except SimulatorError as error:
            reply = {"mistake": str(error)}
        except Exception as error:
            reply = {"crash": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        wire.send(sock, reply)
    worker.close()


def main(descriptor: int) -> None:
    """Serve on an inherited socket."""
    os.dup2(2, 1)  # prints of simulators join stderr
    with socket.socket(fileno=descriptor) as sock:
        serve(sock)


if __name__ == "__main__":
    main(int(sys.argv[1]))


def load_adapter(name: str) -> type[Simulator]:
    """Import the adapter class; called inside workers.

    Raises:
        SimulatorError: If the module or class does not exist.
    """
    module_name, _, class_name = entry(name).adapter.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SimulatorError(f"simulator {name!r}: cannot import {module_name} ({error}).") from error
    if not hasattr(module, class_name):
        raise SimulatorError(f"simulator {name!r}: {module_name} has no class {class_name!r}.")
    adapter: type[Simulator] = getattr(module, class_name)
    return adapter
