"""The `videopolicy` command before any verb."""

import json
import subprocess
import sys

import pytest

from videopolicy.main import VERBS, main, overview

from .conftest import ROOT, environment


def test_the_list_of_verbs_imports_none_of_them() -> None:
    """`videopolicy --help` shall answer at once: torch, lightning and diffusers alone take seconds."""
    code = "import sys, json, videopolicy.main as m; m.main(['--help']); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    *printed, modules = done.stdout.splitlines()
    assert not {"torch", "lightning", "diffusers", "h5py", "numpy", "rich"} & set(json.loads(modules))
    assert [line.split()[0] for line in printed if line.startswith("  ")] == list(VERBS)


def test_every_file_of_a_verb_is_listed() -> None:
    files = {
        path.stem.replace("_", "-")
        for path in (ROOT / "videopolicy").glob("*.py")
        if "def add_arguments" in path.read_text()
    }
    assert files == set(VERBS)
    assert all(f"  {name:13} {said}" in overview() for name, said in VERBS.items())


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert VERBS[name].split()[0] in capsys.readouterr().out


def test_a_misspelt_verb_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evalute"]) == 2
    assert "'evaluate'" in capsys.readouterr().err
