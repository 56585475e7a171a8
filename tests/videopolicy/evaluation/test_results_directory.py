"""What may share a directory of results, who may write to it, and what a kill leaves behind."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from files.errors import UserError
from rollouts import EpisodeResult
from videopolicy.evaluation.identity import differing_keys, fingerprint
from videopolicy.evaluation.results_directory import open_directory, read_evaluation

POLICY = {"kind": "checkpoint", "path": "runs/last.ckpt", "sha256": "ab" * 32}
PROTOCOL: dict[str, Any] = {
    "name": "lift",
    "source": "here",
    "simulator": {"name": "robosuite", "tasks": ["Lift"], "max_steps": 120, "variation": {}, "python": None},
    "episodes_per_task": 5,
    "first_seed": 0,
    "execute_steps": 8,
    "groups": {},
}


def document(change: Callable[[dict[str, Any]], object] = lambda d: None) -> dict[str, Any]:
    content = copy.deepcopy({"policy": POLICY, "protocol": PROTOCOL})
    change(content)
    return content


def begin(path: Path, content: dict[str, Any] | None = None) -> None:
    """One run that only writes protocol.json."""
    content = content or document()
    with open_directory(path, content["policy"], content["protocol"], content.get("versions", {"python": "3"})):
        pass


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["policy"].update(path="elsewhere/last.ckpt"),
        lambda d: d["protocol"].update(episodes_per_task=50),
        lambda d: d["protocol"].update(name="mine", source="there", groups={"held_out": ["Lift"]}),
        lambda d: d["protocol"]["simulator"].update(tasks=["Stack"]),
        lambda d: d["protocol"]["simulator"].update(python=".venvs/other/bin/python"),
        lambda d: d["protocol"]["simulator"].update(a_setting_of_tomorrow=None),
    ],
)
def test_more_episodes_other_tasks_and_another_place_are_no_difference(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    changed = document(change)
    assert fingerprint(changed) == fingerprint(document())
    begin(tmp_path)
    begin(tmp_path, changed)
    written = read_evaluation(tmp_path).document
    assert written["fingerprint"] == fingerprint(document())
    assert len(written["fingerprint"]) == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["policy"].update(sha256="cd" * 32), r"policy\.sha256: 'abab"),
        (lambda d: d["policy"].update(kind="random"), r"policy\.kind: 'checkpoint' there, 'random' now"),
        (lambda d: d["protocol"].update(execute_steps=4), r"protocol\.execute_steps: 8 there, 4 now"),
        (lambda d: d["protocol"].update(first_seed=4), r"protocol\.first_seed: 0 there, 4 now"),
        (lambda d: d["protocol"]["simulator"].update(max_steps=9), r"protocol\.simulator\.max_steps: 120 there, 9 now"),
        (
            lambda d: d["protocol"]["simulator"].update(variation={"position": 1.0}),
            r"protocol\.simulator\.variation\.position: None there, 1\.0 now",
        ),
        (lambda d: d["protocol"]["simulator"].update(options={"a": 1}), r"simulator\.options\.a: None there, 1 now"),
    ],
)
def test_another_policy_or_protocol_is_refused_and_the_keys_are_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    changed = document(change)
    assert fingerprint(changed) != fingerprint(document())
    begin(tmp_path)
    before = (tmp_path / "protocol.json").read_bytes()
    with pytest.raises(UserError, match=message) as refusal:
        begin(tmp_path, changed)
    assert "give another --output" in str(refusal.value)
    assert (tmp_path / "protocol.json").read_bytes() == before
    assert len(differing_keys(document(), changed)) == 1


def on_release(release: str, package: str = "robosuite") -> dict[str, Any]:
    return {**document(), "versions": {"simulator": {"python": "3", package: release, "mujoco": "3.8.1"}}}


@pytest.mark.parametrize(
    ("package", "release", "message"),
    [
        ("robosuite", "1.5.1", r"releases\.robosuite: '1\.4\.0' there, '1\.5\.1' now"),
        ("praxis-robosuite", "1.5.2", r"releases\.robosuite: '1\.4\.0' there, 'praxis-robosuite 1\.5\.2' now"),
    ],
)
def test_another_simulator_release_is_refused_by_name_and_both_releases(
    tmp_path: Path, package: str, release: str, message: str
) -> None:
    begin(tmp_path, on_release("1.4.0"))
    begin(tmp_path, on_release("1.4.0"))
    with pytest.raises(UserError, match=message):
        begin(tmp_path, on_release(release, package))
    assert fingerprint(on_release("1.4.0")) != fingerprint(on_release("1.5.1"))


def test_packages_that_decide_no_episode_may_change(tmp_path: Path) -> None:
    begin(tmp_path, on_release("1.4.0"))
    other = on_release("1.4.0")
    other["versions"]["simulator"] |= {"numpy": "9", "hf-libero": "0.2", "python": "3.13"}
    begin(tmp_path, other)


def test_a_directory_of_before_releases_were_kept_stays_usable_and_what_is_assumed_is_said(tmp_path: Path) -> None:
    begin(tmp_path)
    content = on_release("1.4.0")
    with open_directory(tmp_path, content["policy"], content["protocol"], content["versions"]) as directory:
        assert "does not say its simulator's releases; they are taken to be the same" in directory.notes[0]
    with pytest.raises(UserError, match=r"releases\.robosuite"):
        begin(tmp_path, on_release("1.5.1"))


def test_tasks_episodes_and_warnings_of_several_runs_add_up(tmp_path: Path) -> None:
    begin(tmp_path, document(lambda d: d["protocol"].update(warnings=["a"])))
    begin(tmp_path, document(lambda d: d["protocol"]["simulator"].update(tasks=["Stack"])))
    begin(tmp_path, document(lambda d: d["protocol"].update(episodes_per_task=2, warnings=["b", "a"])))
    written = read_evaluation(tmp_path).document
    assert written["protocol"]["simulator"]["tasks"] == ["Lift", "Stack"]
    assert written["protocol"]["episodes_per_task"] == 5
    assert written["protocol"]["warnings"] == ["a", "b"]
    assert written["versions"] == {"python": "3"}


def test_a_second_run_is_refused_with_the_firsts_process_and_may_come_later(tmp_path: Path) -> None:
    with open_directory(tmp_path, POLICY, PROTOCOL):
        code = (
            "import sys\nfrom pathlib import Path\n"
            "from videopolicy.evaluation.results_directory import open_directory\n"
            f"with open_directory(Path({str(tmp_path)!r}), {POLICY!r}, {PROTOCOL!r}): pass"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert f"another run (process {os.getpid()}) is writing results there" in done.stderr
    with open_directory(tmp_path, POLICY, PROTOCOL):
        pass


def test_a_half_written_line_is_removed_and_said(tmp_path: Path) -> None:
    begin(tmp_path)
    with open_directory(tmp_path, POLICY, PROTOCOL) as directory:
        assert not directory.notes
        for seed in range(2):
            directory.append(EpisodeResult("robosuite", "Lift", seed, None, True))
    lines = tmp_path / "results.jsonl"
    assert {json.loads(line)["fingerprint"] for line in lines.read_text().splitlines()} == {fingerprint(document())}
    lines.write_bytes(lines.read_bytes()[:-7])
    with open_directory(tmp_path, POLICY, PROTOCOL) as directory:
        assert "a kill had cut its last line" in directory.notes[0]
        assert list(directory.results()) == ["robosuite/Lift/seed0"]
    assert lines.read_bytes().endswith(b"}\n")


def test_damage_and_what_is_no_results_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").touch()
    with pytest.raises(UserError, match=r"has no protocol\.json beside it"):
        begin(tmp_path)
    (tmp_path / "protocol.json").write_text('{"protocol": 3}')
    with pytest.raises(UserError, match="is damaged"):
        begin(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; results go into a directory now"):
        begin(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be made"):
        begin(tmp_path / "file" / "folder")
