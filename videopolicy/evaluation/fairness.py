"""A protocol made fair to a checkpoint: held-out episodes, the demos' words and pictures, and warnings of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from callbacks.demo_differences import differences, unseen_words
from datamodules import Preprocessing
from datamodules.demo_origin import DemoOrigin
from files.errors import UserError
from rollouts.survey import Survey
from videopolicy.evaluation.held_out import held_out
from videopolicy.evaluation.protocol import Protocol


def picture_size(document: Mapping[str, Any], data: Preprocessing) -> int:
    """Pixels to draw where a protocol leaves it to the policy: those of the demos, so that both are scaled alike."""
    sizes = document.get("demo_origin", {}).get("image_sizes", [])
    return sizes[0] if len(sizes) == 1 else data.image_size


def judged_fairly(
    protocol: Protocol,
    document: Mapping[str, Any],
    checkpoint: Path,
    words: Literal["simulator", "demos"],
    chosen: bool,
) -> Protocol:
    """Keep clear of what a checkpoint was trained on and chosen by, and warn where that cannot be.

    Args:
        protocol: Its tasks named.
        document: Content of the checkpoint.
        checkpoint: Its file, for messages.
        words: Whose words the policy is given.
        chosen: The user asked for these seeds, so they are taken as they come.

    Raises:
        UserError: The demos' words are asked for and the checkpoint does not know them.
    """
    stored = document.get("demo_origin")
    origin = None if stored is None else DemoOrigin.from_dict(stored)
    if words == "demos":
        protocol = in_words_of(origin, protocol, checkpoint)
    found = held_out(protocol.simulator, origin, document.get("rollout"))
    protocol = protocol if chosen else replace(protocol, held_out=found)
    warnings = found.warnings(protocol.episodes(), chosen)
    if origin is None and protocol.simulator.num_init_states:
        warnings.append(
            "not known to be held out: the checkpoint does not say which recorded initial states its demos had "
            "(it is older than that record, or converted)."
        )
    return replace(protocol, warnings=tuple(warnings), origin=origin)


def compared_with_demos(protocol: Protocol) -> Protocol:
    """Warn of everything that the policy's demos had otherwise."""
    if protocol.origin is None:
        return protocol
    survey = _survey(protocol)
    told = replace(survey, instructions={**survey.instructions, **protocol.simulator.instructions})
    return replace(protocol, warnings=(*protocol.warnings, *differences(protocol.origin, protocol.simulator, told)))


def in_words_of(origin: DemoOrigin | None, protocol: Protocol, checkpoint: Path) -> Protocol:
    """The protocol with the demos' words for every task whose own words they never had.

    Raises:
        UserError: The checkpoint does not know its demos' words.
    """
    if origin is None:
        raise UserError(
            f"--words demos: {checkpoint} does not know the words of its demos; write instructions: {{task: words}} "
            "into the simulator section of a protocol file."
        )
    simulator = protocol.simulator
    told = {task: [words] for task, words in _survey(protocol).instructions.items() if task in origin.tasks}
    other = {task: seen for task, (_, seen) in unseen_words(origin, simulator.tasks, told).items()}
    silent = {  # the adapter does not tell its words beforehand, and the demos had but one wording
        task: origin.tasks[task].instructions[0]
        for task in simulator.tasks
        if task not in told and task in origin.tasks and len(origin.tasks[task].instructions) == 1
    }
    words = {**silent, **other, **simulator.instructions}
    return replace(protocol, simulator=replace(simulator, instructions=words))


def _survey(protocol: Protocol) -> Survey:
    assert protocol.survey is not None, "with_tasks comes first"
    return protocol.survey
