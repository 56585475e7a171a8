from __future__ import annotations

import io

from rich.console import Console

from rollouts.progress import EpisodeProgress


def test_the_line_counts_what_was_there_before_but_not_in_the_rate() -> None:
    bar = EpisodeProgress("rollouts", total=10, done=4, enabled=False)
    bar._start -= 60.0
    bar.advance("5 of 5 solved")
    line = bar.line()
    assert "5/10" in line
    assert "5 of 5 solved" in line
    assert "60/h" in line
    assert "0:05:00 left" in line


def test_a_log_file_gets_one_line_at_the_end_and_nothing_when_disabled() -> None:
    shown, hidden = io.StringIO(), io.StringIO()
    for stream, enabled in ((shown, True), (hidden, False)):
        console = Console(file=stream, markup=False)
        with EpisodeProgress("rollouts", 2, enabled=enabled, console=console) as bar:
            bar.advance("0 of 1 solved")
            bar.advance("1 of 2 solved")
    assert len(shown.getvalue().splitlines()) == 1
    assert "2/2" in shown.getvalue()
    assert not hidden.getvalue()
