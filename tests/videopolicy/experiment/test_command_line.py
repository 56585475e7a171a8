"""What is typed after `lightning`."""

from pathlib import Path
from typing import Any

import pytest

from files.errors import UserError
from videopolicy.experiment.command_line import CommandLine, merged_experiment, parse
from videopolicy.experiment.files import stage_config

JOINT: dict[str, Any] = {"stages": {"joint": {}}}
TWO: dict[str, Any] = {"stages": {"video": {}, "action": {}}}


def test_options_and_overrides_are_told_apart() -> None:
    line = parse(
        ["fit", "-c", "a.yaml", "--config=b.yaml", "--stage", "video", "--run_dir", "runs/x", "--data.n", "-1"]
    )
    assert line == CommandLine(
        "fit", configs=["a.yaml", "b.yaml"], stage="video", run_dir="runs/x", overrides=[("data.n", "-1")]
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("1e-3", 1e-3),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("{a: 1}", {"a": 1}),
        ("*.hdf5", "*.hdf5"),
        ("pick: the mug", "pick: the mug"),
    ],
)
def test_values_of_unknown_arguments_read_as_in_a_file(text: str, value: object) -> None:
    for words in (["--key", text], [f"--key={text}"]):
        assert stage_config({}, "video", parse(["fit", *words]).overrides) == {"key": value}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing: the first word must be a subcommand"),
        (["fti"], "did you mean 'fit'"),
        (["fit", "--trainer.max_steps"], "--trainer.max_steps: needs a value"),
        (["fit", "lift"], "lift: not an option"),
        (["fit", "-x", "1"], "-x: no such option"),
        (["fit", "--stages.vido.data.n", "1"], "no stage 'vido'; did you mean 'video'"),
        (["fit", "--stages.video", "1"], "name a key of the stage"),
        (["fit", "--trainer.callbacks+", "Timer"], r"--trainer\.callbacks\+: .* --trainer\.callbacks\."),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(arguments)


STAGES: list[tuple[list[str], dict[str, Any], tuple[str, ...]]] = [
    (["fit"], {}, ("video", "action")),
    (["validate"], {}, ("action",)),
    (["validate", "--stage", "video"], {}, ("video",)),
    (["fit"], {"stage": "video"}, ("video",)),  # a stage's recorded config
    (["fit"], JOINT, ("joint",)),
    (["validate"], JOINT, ("joint",)),
    (["fit", "--stage", "joint"], JOINT, ("joint",)),
    (["validate"], {"stage": "joint"}, ("joint",)),
]


@pytest.mark.parametrize(("arguments", "experiment", "stages"), STAGES)
def test_fit_runs_every_stage_and_the_rest_judge_the_last(
    arguments: list[str], experiment: dict[str, Any], stages: tuple[str, ...]
) -> None:
    assert parse(arguments).stages(experiment) == stages


@pytest.mark.parametrize(
    ("stage", "experiment", "message"),
    [
        ("vid", {}, "--stage vid: no such stage"),
        ("action", JOINT, r"--stage action: a\.yaml has no stage 'action'; it has joint\."),
        ("joint", TWO, r"--stage joint: a\.yaml has no stage 'joint'; it has video and action\."),
    ],
)
def test_a_stage_that_is_not_there_is_refused(stage: str, experiment: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(["fit", "-c", "a.yaml", "--stage", stage]).stages(experiment)


def test_an_override_of_a_stage_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("stages: {joint: {n: 1}}")
    line = parse(["fit", "-c", str(tmp_path / "a.yaml"), "--stages.action.n", "2"])
    with pytest.raises(UserError, match=r"--stages\.action\.n: .*a\.yaml has no stage 'action'"):
        line.experiment()


def test_the_run_directory_is_named_after_the_first_file_unless_something_says_otherwise() -> None:
    line = parse(["fit", "-c", "experiments/lift.yaml", "-c", "more.yaml"])
    assert line.run_directory({}) == Path("runs/lift")
    assert line.run_directory({"run_dir": "runs/here"}) == Path("runs/here")
    assert parse(["fit", "-c", "a.yaml", "--run_dir", "x"]).run_directory({"run_dir": "y"}) == Path("x")
    config = line.stage_config({"cache": "${run_dir}/features"}, "action")  # files may use it
    assert config == {"cache": "runs/lift/features", "stage": "action", "run_dir": "runs/lift"}


def test_a_stage_that_does_not_run_takes_only_the_overrides_that_are_of_it_alone() -> None:
    line = parse(["fit", "-c", "x.yaml", "--a", "1", "--stages.action.b", "2", "--rollout.n", "3"])
    assert line.stage_config({}, "action", ("video",)).keys() == {"stage", "run_dir", "b", "rollout"}
    assert line.stage_config({}, "action", ("action",)).keys() == {"stage", "run_dir", "a", "b", "rollout"}


@pytest.mark.parametrize("stages", [("video", "action"), ("joint",)])
def test_the_recorded_experiment_gives_every_stage_its_config_and_the_run_directory(stages: tuple[str, ...]) -> None:
    line = parse(["fit", "-c", "lift.yaml", "--trainer.max_steps", "3"])
    experiment = {"data": "D", "stages": {stage: {"n": number} for number, stage in enumerate(stages)}}
    ran = stages[0]
    recorded = merged_experiment(line, experiment, {ran: line.stage_config(experiment, ran)})
    shared = {"run_dir": "runs/lift", "data": "D"}
    assert stage_config(recorded, ran) == {**shared, "n": 0, "trainer": {"max_steps": 3}}
    for number, other in enumerate(stages[1:], start=1):  # as the files say, for it did not run
        assert stage_config(recorded, other) == {**shared, "n": number}
    assert line.stages(recorded) == stages


def test_fit_without_an_experiment_says_what_to_type() -> None:
    with pytest.raises(UserError, match=r"fit needs an experiment: lightning fit -c experiments/lift\.yaml"):
        parse(["fit"]).experiment()
