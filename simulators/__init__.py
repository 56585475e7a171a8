"""Simulators behind one small protocol, each in its own worker process, and the engine that rolls policies out in them.

Imports numpy and the standard library only; a simulator is imported inside its worker.
"""

from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError, WorkerDied
from simulators.protocol import EpisodeSpec, Observation, Policy, PolicyReply, PolicyRequest, Transition

__all__ = [
    "EpisodeSpec",
    "Observation",
    "Policy",
    "PolicyReply",
    "PolicyRequest",
    "SimulatorConfig",
    "SimulatorError",
    "Transition",
    "WorkerDied",
]
