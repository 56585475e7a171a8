"""The error a user sees when a simulator is configured wrongly, and the one a lost worker raises."""

from __future__ import annotations


class SimulatorError(ValueError):
    """A user's mistake or a missing piece of the machine, in one sentence that says what to do."""


class WorkerDied(RuntimeError):
    """A simulator process crashed, hung past its time limit, or raised; it costs its episode only."""
