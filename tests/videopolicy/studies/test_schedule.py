"""Commands side by side: in order, in time, and no failure stops the others."""

import sys
import time
from pathlib import Path

from videopolicy.studies.schedule import Command, Schedule, Task


def task(folder: Path, name: str, *programs: str, needs: str | None = None, resumed: bool = False) -> Task:
    commands = [Command("action", (sys.executable, "-c", program), resumed) for program in programs]
    return Task(name, lambda: commands, folder / f"{name}.txt", needs)


def run(tasks: list[Task], slots: int = 2) -> list[str]:
    schedule = Schedule(tasks, [{"SLOT": str(index)} for index in range(slots)])
    return [ended.name for ended in schedule.run() if ended is not None]


def test_a_task_waits_for_the_one_that_it_needs_while_others_run(tmp_path: Path) -> None:
    file = tmp_path / "stage1"
    first = task(tmp_path, "stage 1", f"import time; time.sleep(.6); open({str(file)!r}, 'w')")
    reader = task(tmp_path, "reader", f"open({str(file)!r})", needs="stage 1")
    other = task(tmp_path, "other", "import os; print('slot', os.environ['SLOT'])")
    assert run([first, reader, other]) == ["other", "stage 1", "reader"]
    assert (first.failure, reader.failure) == (None, None)
    assert (tmp_path / "other.txt").read_text() == "slot 1\n"
    assert first.seconds["action"] > 0.5


def test_a_failure_is_said_in_its_last_words_and_stops_only_who_needs_it(tmp_path: Path) -> None:
    broken = task(tmp_path, "stage 1", "import sys; sys.exit('lightning: no such demos')")
    lost = task(tmp_path, "lost", "pass", needs="stage 1")
    later = task(tmp_path, "later", "pass", "import sys; sys.exit(3)", "never = run")
    fine = task(tmp_path, "fine", "pass")
    schedule = Schedule([broken, lost, later, fine], [{}])
    ended = [one.name for one in schedule.run() if one is not None]
    assert ended == ["stage 1", "later", "fine"]
    assert broken.failure == "action: lightning: no such demos"
    assert lost.failure == "stage 1 failed: action: lightning: no such demos"
    assert later.failure == "action: exit status 3"
    assert fine.failure is None
    assert schedule.failed == [broken, lost, later]


def test_what_was_gone_on_with_has_no_time_and_what_finish_refuses_has_failed(tmp_path: Path) -> None:
    resumed = task(tmp_path, "resumed", "pass", resumed=True)
    refused = task(tmp_path, "refused", "pass")
    refused.finish = lambda seconds: f"no episodes after {len(seconds)} part"
    run([resumed, refused])
    assert resumed.seconds == {}
    assert refused.failure == "no episodes after 1 part"


def test_whoever_stops_reading_ends_what_runs(tmp_path: Path) -> None:
    file = tmp_path / "said"
    program = (
        "import signal, sys, time; "
        f"signal.signal(signal.SIGTERM, lambda *_: (open({str(file)!r}, 'w').write('saved'), sys.exit(0))); "
        f"open({str(tmp_path / 'ready')!r}, 'w'); time.sleep(60)"
    )
    schedule = Schedule([task(tmp_path, "long", program)], [{}])
    steps = schedule.run()
    start = time.monotonic()
    while not (tmp_path / "ready").exists():
        next(steps)
        assert time.monotonic() - start < 60
    steps.close()
    assert file.read_text() == "saved"
    assert schedule.active[0].process.poll() == 0  # type: ignore[union-attr]
