"""Parts of `videopolicy report`: what is read, what is drawn, and the page."""

from videopolicy.reports.evaluations import Evaluation, is_evaluation, read_evaluation, read_folder
from videopolicy.reports.page import render
from videopolicy.reports.pairs import PairedEvaluations, pair
from videopolicy.reports.training import TrainingRun, is_training_run, read_training_run

__all__ = [
    "Evaluation",
    "PairedEvaluations",
    "TrainingRun",
    "is_evaluation",
    "is_training_run",
    "pair",
    "read_evaluation",
    "read_folder",
    "read_training_run",
    "render",
]
