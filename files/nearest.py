"""The name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, candidates: Iterable[str]) -> str:
    """Say which candidate was meant, as the end of an error sentence.

    Args:
        word: What was written.
        candidates: What is allowed; must not be empty.
    """
    known = sorted(set(candidates))
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(known[:20])
    return f"known are {shown}." if len(known) <= 20 else f"known are {shown} and {len(known) - 20} more."
