"""Simulators behind one small protocol: what is lent to a worker process, in whichever Python it runs.

Imports numpy and the standard library only; a simulator is imported inside its worker.
"""

from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError, WorkerDied
from simulators.experts.episode import ExpertSettings
from simulators.messages import EpisodeSpec, Observation, PolicyReply, PolicyRequest, Transition

__all__ = [
    "EpisodeSpec",
    "ExpertSettings",
    "Observation",
    "PolicyReply",
    "PolicyRequest",
    "SimulatorConfig",
    "SimulatorError",
    "Transition",
    "WorkerDied",
]
