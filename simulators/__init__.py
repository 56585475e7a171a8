"""Simulators behind one small protocol, each in its own worker process, and the engine that rolls policies out in them.

Imports numpy and the standard library only; a simulator is imported inside its worker.
"""

from simulators.collect import CollectedEpisode, collect_demos
from simulators.config import SimulatorConfig
from simulators.engine import RolloutEngine
from simulators.errors import SimulatorError, WorkerDied
from simulators.experts.episode import ExpertSettings
from simulators.policies import ReplayPolicy
from simulators.protocol import EpisodeSpec, Observation, Policy, PolicyReply, PolicyRequest, Transition
from simulators.results import (
    EpisodeResult,
    Prediction,
    Recording,
    ResultsFile,
    compare,
    summarize,
    wilson_interval,
)

__all__ = [
    "CollectedEpisode",
    "EpisodeResult",
    "EpisodeSpec",
    "ExpertSettings",
    "Observation",
    "Policy",
    "PolicyReply",
    "PolicyRequest",
    "Prediction",
    "Recording",
    "ReplayPolicy",
    "ResultsFile",
    "RolloutEngine",
    "SimulatorConfig",
    "SimulatorError",
    "Transition",
    "WorkerDied",
    "collect_demos",
    "compare",
    "summarize",
    "wilson_interval",
]
