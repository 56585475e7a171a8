"""The typed request: every option of `videopolicy evaluate` there and back, and what names its policy."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from files.errors import UserError
from videopolicy.evaluation.request import HELP, EvaluationRequest, read_variation

EVERYTHING = EvaluationRequest(
    checkpoint=Path("a run/last.ckpt"), policy="zero", demos=Path("d.hdf5"), protocol="lift", tasks="a,b",
    episodes=3, first_seed=0,
    as_in_training=True, words="demos", timeout=1.5, execute_steps=2, max_steps=9,
    variation={"camera": 0.123456789, "position": 2.0}, simulator="robosuite", suite="s", python="p", workers=1,
    threads=4, videos=0, device="meta", action_steps=5, action_scheduler="DDIMScheduler", guidance=1.0, video_steps=0,
    precision="bfloat16", compile="default", output=Path("out"),
)  # fmt: skip


def test_no_option_is_lost_on_the_way_to_words_and_back() -> None:
    default = EvaluationRequest()
    same = [item.name for item in fields(default) if getattr(EVERYTHING, item.name) == getattr(default, item.name)]
    assert not same
    assert list(HELP) == [item.name for item in fields(default)]
    assert EVERYTHING.command()[:2] == ["videopolicy", "evaluate"]
    assert EvaluationRequest.parse(EVERYTHING.command()[2:]) == EVERYTHING
    assert default.command() == ["videopolicy", "evaluate"]


def test_every_episode_may_be_recorded_and_a_home_folder_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    request = EvaluationRequest.parse(["--record", "--output=~/out", "--variation", "camera"])
    assert request.videos > 10**9
    assert request.output == Path.home() / "out"
    assert request.variation == {"camera": 1.0}
    with pytest.raises(SystemExit):
        EvaluationRequest.parse(["--record", "--videos", "3"])
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{}, {"precision": "float32"}, {"action_steps": None, "guidance": None}])
def test_a_checkpoint_is_named_with_all_that_its_episodes_depend_on(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"weights")
    request = replace(EVERYTHING, checkpoint=path, policy="checkpoint", **changes)
    identity = request.identity()
    assert (identity["kind"], identity["path"], len(identity["sha256"])) == ("checkpoint", str(path), 64)
    again = EvaluationRequest.of_identity(identity, tasks="x")
    assert again is not None
    assert (again.sampling, again.precision, again.checkpoint) == (request.sampling, request.precision, path)
    assert again.identity() == identity


def test_controls_are_named_with_the_file_that_they_are_made_of(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    untrained = EvaluationRequest(path, policy="untrained", guidance=1.0)
    replay = EvaluationRequest(policy="replay", demos=path)
    for request in (untrained, replay):
        assert request.identity()["kind"] == request.policy
        assert EvaluationRequest.of_identity(request.identity()) == request


def test_a_policy_without_networks_is_named_by_its_kind() -> None:
    assert EVERYTHING.identity() == {"kind": "zero"}
    assert EvaluationRequest.of_identity({"kind": "zero"}) == EvaluationRequest(policy="zero")
    assert EvaluationRequest.of_identity({"kind": "replay"}) is None
    assert EvaluationRequest.of_identity({}) is None


def test_variation_is_read_from_words() -> None:
    assert read_variation(["position=1.5", "appearance"]) == {"position": 1.5, "appearance": 1.0}
    for words, message in ((["camera=much"], "'much' is no number"), (["camera", "camera=2"], "given twice")):
        with pytest.raises(UserError, match=message):
            read_variation(words)
