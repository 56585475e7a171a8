"""The table on a terminal while a run goes on."""

from __future__ import annotations

import io

from rich.console import Console

from rollouts import EpisodeResult, summarize
from simulators import EpisodeSpec
from videopolicy.evaluation.live_table import MAX_ROWS, LiveTable, success_table


def result(task: str, seed: int, success: bool | None) -> EpisodeResult:
    return EpisodeResult("s", task, seed, None, success, steps=3)


def text(table: LiveTable) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table.render())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_progress_success_with_interval_pace_and_time_left_are_shown() -> None:
    episodes = [EpisodeSpec("s", task, seed) for seed in range(4) for task in ("up", "down")]
    known = [result("up", 0, True), result("down", 0, None), result("elsewhere", 0, True)]
    table = LiveTable(Console(file=io.StringIO()), episodes, known)
    assert "1/8 episodes" in text(table)  # the error runs again, and the other protocol's task does not count
    table._start -= 60.0
    table.add(result("up", 1, False))
    table.add(result("down", 0, None))
    shown = text(table)
    assert "3/8 episodes, success 0.500 (0.095 to 0.905), 1 errors, 120 episodes/h, 0:02:30 left" in " ".join(
        shown.split()
    )
    assert "2/4" in shown
    assert "1/4" in shown


def test_a_suite_of_ninety_tasks_stays_within_the_terminal() -> None:
    episodes = [EpisodeSpec("s", f"task{index}", 0) for index in range(90)]
    table = LiveTable(Console(file=io.StringIO()), episodes, [])
    table.add(result("task0", 0, True))
    shown = text(table)
    assert table.render().row_count == MAX_ROWS
    assert "task0 " in shown
    assert "of 90" in shown


def test_nothing_is_drawn_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with LiveTable(Console(file=stream), [EpisodeSpec("s", "up", 0)], []) as table:
        table.add(result("up", 0, True))
    assert stream.getvalue() == ""


def test_a_terminal_gets_the_table_and_it_goes_away_at_the_end() -> None:
    stream = io.StringIO()
    with LiveTable(Console(file=stream, force_terminal=True, width=120), [EpisodeSpec("s", "up", 0)], []) as table:
        table.add(result("up", 0, True))
        table._live.refresh()
    assert "1/1 episodes" in stream.getvalue()


def test_the_last_table_has_rows_for_tasks_means_and_groups() -> None:
    results = [result("up", 0, True), result("down", 0, False)]
    table = success_table({"policy": summarize(results, {"held_out": ["down"]})})
    assert list(table.columns[0].cells) == ["up", "down", "total", "held_out", "mean over tasks", "mean over held_out"]


def test_errors_stay_out_of_the_rate() -> None:
    results = [result("a", seed, success) for seed, success in enumerate([True, False, None])]
    table = success_table({"policy": summarize(results)})
    assert table.row_count == 1
    assert [next(iter(column.cells)) for column in table.columns][1:3] == ["1/2", "0.500"]


def test_a_long_name_gives_way_and_the_numbers_stay_readable_on_a_narrow_terminal() -> None:
    name = "pick_up_the_alphabet_soup_and_place_it_in_the_basket"
    console = Console(file=io.StringIO(), width=80)
    console.print(success_table({"scripted": summarize([result(name, seed, True) for seed in range(10)])}))
    assert isinstance(console.file, io.StringIO)
    assert "10/10 │ 1.000 │ 0.722 to 1.000" in console.file.getvalue()
    console.print(success_table({name[:14]: summarize([result("Lift", 0, True)]), "b": summarize([])}))
    assert "1/1 │ 1.000 │ 0.207 to 1.000" in console.file.getvalue()
