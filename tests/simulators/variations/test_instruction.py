from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from rollouts.engine import RolloutEngine
from simulators.config import SimulatorConfig
from simulators.messages import EpisodeSpec, PolicyReply, PolicyRequest
from simulators.robosuite_adapter import TASKS
from simulators.variations import paraphrase
from tests.simulators.conftest import counting

__all__ = ["counting"]  # a fixture

LIBERO = [
    "pick up the black bowl between the plate and the ramekin and place it on the plate",
    "pick the akita black bowl in the top layer of the wooden cabinet and place it on the plate",
    "open the top drawer and put the bowl inside",
    "push the plate to the front of the stove",
    "put both the alphabet soup and the tomato sauce in the basket",
    "turn on the stove and put the moka pot on it",
    "turn off the stove",
    "put the butter at the back in the top drawer of the cabinet and close it",
    "put the white mug on the left plate and put the yellow and white mug on the right plate",
    "stack the left bowl on the right bowl and place them in the tray",
    "close the bottom drawer of the cabinet and open the top drawer",
]
ROBOCASA = [
    "pick the mug from the counter and place it in the sink",
    "press the button on the coffee machine to serve coffee",
    "turn the sink spout to the right",
]
INSTRUCTIONS = [*LIBERO, *ROBOCASA, *(words for words, _ in TASKS.values()), "wave", ""]
VERBS = {
    "pick",
    "up",
    "place",
    "put",
    "open",
    "push",
    "turn",
    "on",
    "off",
    "stack",
    "close",
    "lift",
    "press",
    "and",
    "it",
    "them",
    "its",
}


def wordings(instruction: str, level: float, number: int = 60) -> list[str]:
    return [paraphrase(instruction, EpisodeSpec("s", "t", seed), level) for seed in range(number)]


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
@pytest.mark.parametrize("level", [1.0, 2.0])
def test_other_words_name_the_same_things_in_the_same_places(instruction: str, level: float) -> None:
    things = [word for word in re.findall(r"\w+", instruction) if word not in VERBS]
    found = wordings(instruction, level)
    assert instruction not in found
    assert len(set(found)) >= 2
    for text in found:
        words = re.findall(r"\w+", text)
        assert all(words.count(thing) >= things.count(thing) for thing in things), text
        assert "{" not in text


def test_rare_wordings_are_others_than_ordinary_ones() -> None:
    assert not set(wordings("lift the red cube", 1.0)) & set(wordings("lift the red cube", 2.0))
    assert set(wordings("lift the red cube", 1.0)) == {"raise the red cube", "pick up the red cube"}


def test_a_growing_level_rewords_more_episodes_and_leaves_those_it_had() -> None:
    levels = {level: wordings("open the door", level, 400) for level in (0.0, 0.5, 1.0, 1.5, 2.0, 7.0)}
    assert set(levels[0.0]) == {"open the door"}
    reworded = [text != "open the door" for text in levels[0.5]]
    assert 160 < sum(reworded) < 240
    assert all(half == one for half, one, told in zip(levels[0.5], levels[1.0], reworded, strict=True) if told)
    rare = [text == most for text, most in zip(levels[1.5], levels[2.0], strict=True)]
    assert 160 < sum(rare) < 240
    assert levels[2.0] == levels[7.0]


def test_a_pronoun_stays_an_object() -> None:
    for text in wordings("put the bowl in the drawer and close it", 2.0):
        assert text.endswith((" and shut it", " and push it shut"))


def test_two_clauses_are_told_from_an_and_between_things() -> None:
    (text,) = set(wordings("put both the soup and the sauce in the basket and close it", 1.0, 1))
    assert "both the soup and the sauce in the basket and " in text


class Listener:
    """Counts to the goal, and keeps what it was told in each episode."""

    def __init__(self) -> None:
        self.told: dict[int, set[str]] = {}

    def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
        for request in requests:
            self.told.setdefault(request.episode.seed, set()).add(request.observation.instruction)
        return [PolicyReply(np.full((2, 2), 0.5, np.float32)) for _ in requests]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_policy_hears_one_wording_an_episode_the_same_for_any_workers(
    counting: Callable[..., SimulatorConfig], num_workers: int
) -> None:
    config = counting(variation={"instruction": 1.5})
    listener = Listener()
    with RolloutEngine(config, num_workers=num_workers, execute_steps=2) as engine:
        engine.run(listener, config.episodes(6), progress=False)
    expected = {seed: {paraphrase("count", EpisodeSpec("counting", "up", seed), 1.5)} for seed in range(6)}
    assert listener.told == expected
    assert expected[0] != {"count"}
