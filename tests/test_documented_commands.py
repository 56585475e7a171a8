"""Every command that README.md and docs/ print is run once, for real, against small parts (`tests/documented.py`)."""

import re
from pathlib import Path

import pytest

from simulators.catalogue import INSTALLATIONS
from tests.documented import (
    BEFORE,
    NOT_RUN,
    PRINTED_WITH_GAPS,
    REFUSED,
    SHORT,
    Workplace,
    commands_of,
    documented,
    inputs,
    longest_start,
    needs_libero,
    whole,
)

COMMANDS = documented()
QUICK = re.compile(
    r"videopolicy (inspect|simulators list|simulators check robocasa)|make help|"
    r"lightning .*(help|--print_config)|videopolicy convert --from svd"
)
"""Commands of a few seconds that need no trained run; `make test` runs them, `make test-docs` all."""


def kinds(text: str) -> list[pytest.MarkDecorator]:
    return [] if text in NOT_RUN or QUICK.match(text) else [pytest.mark.docs, pytest.mark.slow]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Where tiny training runs and evaluations are made once."""
    return Workplace(tmp_path_factory.mktemp("documented"))


@pytest.fixture
def workplace(tmp_path: Path, store: Workplace) -> Workplace:
    return Workplace(tmp_path, store)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("text", [pytest.param(text, marks=kinds(text), id=text[:100]) for text in sorted(COMMANDS)])
def test_a_documented_command_runs(text: str, workplace: Workplace) -> None:
    if reason := NOT_RUN.get(text):
        pytest.skip(f"{text}: {reason}")
    command = whole(text)
    for path in inputs(command):
        workplace.provide(path)
    if (start := longest_start(text, BEFORE)) is not None:
        workplace.succeed(whole(BEFORE[start]))
    done = workplace.run(command)
    said = f"{COMMANDS[text]}: {command}\n{done.stdout[-3000:]}\n{done.stderr[-4000:]}"
    refused = REFUSED.get(text)
    if refused is None and needs_libero(text) and INSTALLATIONS["libero"].found() is None:
        refused = "pip install -e '.[libero]'"
    if refused is not None and done.returncode != 0:
        assert done.returncode == 2, said
        assert refused in done.stderr, said
        assert "Traceback" not in done.stderr, said
    else:
        assert done.returncode == 0, said


def test_the_tables_name_only_what_is_printed() -> None:
    assert not [text for table in (NOT_RUN, REFUSED, PRINTED_WITH_GAPS) for text in table if text not in COMMANDS]
    printed = " \n".join(PRINTED_WITH_GAPS.get(text, text) for text in COMMANDS) + " \n"
    assert not [start for table in (SHORT, BEFORE) for start in table if f"\n{start} " not in f"\n{printed}"]


def test_an_input_that_no_table_knows_is_an_error(workplace: Workplace) -> None:
    assert inputs("videopolicy inspect demos/unheard_of.hdf5") == ["demos/unheard_of.hdf5"]
    with pytest.raises(LookupError, match=r"demos/unheard_of\.hdf5"):
        workplace.provide("demos/unheard_of.hdf5")


def test_commands_are_found_wherever_a_page_prints_them(tmp_path: Path) -> None:
    page = (
        "Run `make demo`, or\n`videopolicy inspect\nfile.hdf5`, `python benchmarks/a.py --b`; "
        "`videopolicy report` is a verb.\n\n"
        "    videopolicy report runs/lift   # a page\n    some text\n\n1. In a list\n\n       make help\n\n"
        "```bash\nA=b videopolicy compare a \\\n    b\n```\n\n```yaml\nvideopolicy: 1\n```\n"
    )
    assert sorted(commands_of(page)) == [
        "A=b videopolicy compare a b",
        "make demo",
        "make help",
        "python benchmarks/a.py --b",
        "videopolicy inspect file.hdf5",
        "videopolicy report runs/lift",
    ]
