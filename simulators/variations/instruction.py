"""Instruction: the same task in other words, the more unusual the higher the level.

Phrases of the instruction are replaced by others of the same meaning. Objects and places keep their names, so that
no wording names another object. The wording is drawn from the episode.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TypeVar

import numpy as np

from simulators.messages import DemoEpisode, EpisodeSpec, Observation
from simulators.variations.kinds import variation_rng

_Told = TypeVar("_Told", Observation, DemoEpisode)

Wordings = tuple[str, ...]

PHRASES: tuple[tuple[str, Wordings, Wordings], ...] = (
    (
        r"pick(?: up)? (?P<a>.+?) and (?:place|put) (?:it|them) (?P<b>.+)",
        ("grab {a} and put it {b}", "take {a} and set it {b}", "get {a} and leave it {b}"),
        ("{a} should end up {b}", "make sure that {a} gets {b}", "find {a}, carry it along and leave it {b}"),
    ),
    (
        r"put both (?P<a>.+?) (?P<b>(?:on|in) .+)",
        ("place both {a} {b}", "set both {a} {b}"),
        ("both {a} belong {b}", "make sure that both {a} end up {b}"),
    ),
    (
        r"push (?P<a>.+?) (?P<b>(?:to|into) .+)",
        ("slide {a} {b}", "shove {a} {b}"),
        ("without lifting it, move {a} {b}", "nudge {a} along until it is {b}"),
    ),
    (
        r"stack (?P<a>.+?) on (?P<b>.+)",
        ("put {a} on top of {b}", "place {a} onto {b}"),
        ("build a tower with {a} above {b}", "{b} should carry {a}"),
    ),
    (
        r"lift (?P<a>.+)",
        ("raise {a}", "pick up {a}"),
        ("get {a} off the table", "hold {a} up in the air"),
    ),
    (
        r"open (?P<a>.+)",
        ("pull {a} open", "go and open {a}"),
        ("make {a} stand open", "{a} should not stay closed"),
    ),
    (
        r"close (?P<a>.+)",
        ("shut {a}", "push {a} shut"),
        ("make sure that {a} is not left open", "{a} should not stay open"),
    ),
    (
        r"(?:turn|switch) on (?P<a>.+)",
        ("switch {a} on", "start {a}"),
        ("{a} should be running", "get {a} going"),
    ),
    (
        r"(?:turn|switch) off (?P<a>.+)",
        ("switch {a} off", "stop {a}"),
        ("{a} should not be running", "make sure that {a} no longer runs"),
    ),
    (
        r"press (?P<a>.+)",
        ("push {a}", "press down {a}"),
        ("give {a} a push", "put a finger down on {a}"),
    ),
    (
        r"(?:put|place) (?P<a>.+?) (?P<b>(?:on|in|into|under|to|inside)\b.*)",
        ("place {a} {b}", "set {a} down {b}", "lay {a} {b}"),
        ("{a} should end up {b}", "make sure that {a} gets {b}", "see to it that {a} comes to be {b}"),
    ),
    (
        r"(?P<a>.*)",
        ("please {a}", "now {a}"),
        ("your next job is this: {a}", "would you kindly do the following: {a}"),
    ),
)
"""Pattern of a clause, ordinary synonyms (level 1), rarer wordings (level 2); the first pattern that fits is used."""


def paraphrase(instruction: str, spec: EpisodeSpec, level: float) -> str:
    """The instruction in other words of the same meaning.

    Args:
        instruction: One or more clauses joined by "and", as the suites have them.
        spec: The episode that the wording is drawn from.
        level: Up to 1 the share of episodes with ordinary synonyms, the others keep the standard words; from 1 to 2 the
            share, less 1, of episodes with rarer wordings, the others have synonyms; above 2 as 2.
    """
    rng = variation_rng(spec, "instruction")
    chance = float(rng.uniform())
    rarity = int(chance < level) + int(chance < level - 1.0)
    if rarity == 0:
        return instruction
    clauses = split_clauses(instruction)
    return " and ".join(_reword(clause, rarity, rng) for clause in clauses)


def split_clauses(instruction: str) -> list[str]:
    """Clauses that each begin with a verb; "pick up ... and place it ..." is one."""
    parts = re.split(r" and (?=(?:put|place|pick|open|close|turn|switch|push|press|stack|lift)\b)", instruction)
    clauses: list[str] = []
    for part in parts:
        if clauses and re.match(r"pick\b", clauses[-1]) and re.match(r"(?:put|place) (?:it|them)\b", part):
            clauses[-1] += f" and {part}"
        else:
            clauses.append(part)
    return clauses


def _reword(clause: str, rarity: int, rng: np.random.Generator) -> str:
    """One clause in other words; the last pattern fits everything."""
    pick = int(rng.integers(6))  # a multiple of 2 and 3: every wording is as likely as the others of its list
    for pattern, ordinary, rare in PHRASES:
        if found := re.fullmatch(pattern, clause):
            wordings = ordinary if rarity == 1 else rare
            if found["a"] in ("it", "them"):  # what a pronoun stands for is in the clause before: keep it an object
                kept = [text for text in wordings if not re.search(r"(^|that |both ){a}", text)]
                wordings = tuple(kept) or ordinary
            return wordings[pick % len(wordings)].format(**found.groupdict())
    raise AssertionError(clause)


def reworded(reply: _Told, spec: EpisodeSpec, level: float) -> _Told:
    """An observation or a demo with its instruction in other words."""
    return replace(reply, instruction=paraphrase(reply.instruction, spec, level))
