"""What a file in experiments/protocols says: how a success rate is measured, in training and in evaluation alike."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from simulators import SimulatorConfig, SimulatorError


@dataclass(frozen=True)
class RolloutProtocol:
    """How a success rate is measured.

    Args:
        name: What it is called.
        source: Where its numbers come from.
        simulator: Simulator, tasks, cameras, step limit and drawing settings.
        episodes_per_task: Episodes of each task in an evaluation.
        first_seed: Seed of every task's first episode in an evaluation.
        execute_steps: Actions executed before the policy is asked again.
        groups: Group name -> tasks that are also reported together.
        timeout_s: Seconds that a worker may take over a chunk or a reset; a task that it has not built gets 300 at
            least.

    Raises:
        SimulatorError: A number is out of its range.
    """

    name: str
    source: str
    simulator: SimulatorConfig
    episodes_per_task: int
    first_seed: int
    execute_steps: int
    groups: dict[str, list[str]] = field(default_factory=dict)
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        for name, least in (("episodes_per_task", 1), ("execute_steps", 1), ("first_seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise SimulatorError(f"protocol {self.name!r}: {name} is {value!r}; it must be {least} or more.")
        if not 0 < self.timeout_s < math.inf:
            raise SimulatorError(f"protocol {self.name!r}: timeout_s is {self.timeout_s!r}; it must be above 0.")
