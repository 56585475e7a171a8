"""The host's side of a rollout: worker processes, the engine that fills them, results, statistics, demos collected.

It knows policies by one small interface (`Actor`), and simulators by the messages of `simulators`.
"""

from rollouts.collect import CollectedEpisode, collect_demos
from rollouts.engine import RolloutEngine
from rollouts.policies import Actor, RandomPolicy, ReplayPolicy, ScriptedPolicy, ZeroPolicy
from rollouts.results import EpisodeResult, Prediction, Recording, ResultsFile
from rollouts.statistics import Comparison, GroupSummary, Pairs, Summary, compare, summarize, wilson_interval

__all__ = [
    "Actor",
    "CollectedEpisode",
    "Comparison",
    "EpisodeResult",
    "GroupSummary",
    "Pairs",
    "Prediction",
    "RandomPolicy",
    "Recording",
    "ReplayPolicy",
    "ResultsFile",
    "RolloutEngine",
    "ScriptedPolicy",
    "Summary",
    "ZeroPolicy",
    "collect_demos",
    "compare",
    "summarize",
    "wilson_interval",
]
