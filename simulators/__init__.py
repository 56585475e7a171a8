"""Simulators behind one small protocol, each in its own worker process, and the engine that rolls policies out in them.

Imports numpy and the standard library only; a simulator is imported inside its worker.
"""

from simulators.collect import CollectedEpisode, collect_demos
from simulators.config import SimulatorConfig
from simulators.engine import RolloutEngine
from simulators.errors import SimulatorError, WorkerDied
from simulators.experts.episode import ExpertSettings
from simulators.policies import RandomPolicy, ReplayPolicy, ScriptedPolicy, ZeroPolicy
from simulators.protocol import EpisodeSpec, Observation, Policy, PolicyReply, PolicyRequest, Transition
from simulators.results import EpisodeResult, Prediction, Recording, ResultsFile
from simulators.statistics import Comparison, GroupSummary, Pairs, Summary, compare, summarize, wilson_interval

__all__ = [
    "CollectedEpisode",
    "Comparison",
    "EpisodeResult",
    "EpisodeSpec",
    "ExpertSettings",
    "GroupSummary",
    "Observation",
    "Pairs",
    "Policy",
    "PolicyReply",
    "PolicyRequest",
    "Prediction",
    "RandomPolicy",
    "Recording",
    "ReplayPolicy",
    "ResultsFile",
    "RolloutEngine",
    "ScriptedPolicy",
    "SimulatorConfig",
    "SimulatorError",
    "Summary",
    "Transition",
    "WorkerDied",
    "ZeroPolicy",
    "collect_demos",
    "compare",
    "summarize",
    "wilson_interval",
]
