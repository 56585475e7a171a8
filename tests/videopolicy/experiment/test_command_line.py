"""What is typed after `lightning`."""

from pathlib import Path

import pytest

from videopolicy.errors import CommandError
from videopolicy.experiment.command_line import CommandLine, merged_experiment, parse
from videopolicy.experiment.files import stage_config


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
    assert stage_config({}, "video", parse(["fit", "--key", text]).overrides) == {"key": value}
    assert stage_config({}, "video", parse(["fit", f"--key={text}"]).overrides) == {"key": value}


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
    with pytest.raises(CommandError, match=message):
        parse(arguments)


def test_fit_runs_both_stages_and_the_rest_judge_the_action_stage() -> None:
    assert parse(["fit"]).stages({}) == ("video", "action")
    assert parse(["validate"]).stages({}) == ("action",)
    assert parse(["validate", "--stage", "video"]).stages({}) == ("video",)
    assert parse(["fit"]).stages({"stage": "video"}) == ("video",)  # a stage's recorded config
    with pytest.raises(CommandError, match="no such stage"):
        parse(["fit", "--stage", "vid"]).stages({})


def test_an_experiment_in_one_stage_is_fitted_and_judged_there() -> None:
    joint = {"stages": {"joint": {}}}
    assert parse(["fit"]).stages(joint) == parse(["validate"]).stages(joint) == ("joint",)
    assert parse(["fit", "--stage", "joint"]).stages(joint) == ("joint",)
    assert parse(["validate"]).stages({"stage": "joint"}) == ("joint",)  # a stage's recorded config
    with pytest.raises(CommandError, match=r"--stage action: a\.yaml has no stage 'action'; it has joint\."):
        parse(["fit", "-c", "a.yaml", "--stage", "action"]).stages(joint)
    with pytest.raises(CommandError, match=r"--stage joint: a\.yaml has no stage 'joint'; it has video and action\."):
        parse(["fit", "-c", "a.yaml", "--stage", "joint"]).stages({"stages": {"video": {}}})


def test_an_override_of_a_stage_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("stages: {joint: {n: 1}}")
    line = parse(["fit", "-c", str(tmp_path / "a.yaml"), "--stages.action.n", "2"])
    with pytest.raises(CommandError, match=r"--stages\.action\.n: .*a\.yaml has no stage 'action'"):
        line.experiment()


def test_the_run_directory_is_named_after_the_first_file_unless_something_says_otherwise() -> None:
    line = parse(["fit", "-c", "experiments/lift.yaml", "-c", "more.yaml"])
    assert line.run_directory({}) == Path("runs/lift")
    assert line.run_directory({"run_dir": "runs/here"}) == Path("runs/here")
    assert parse(["fit", "-c", "a.yaml", "--run_dir", "x"]).run_directory({"run_dir": "y"}) == Path("x")


def test_files_may_use_the_run_directory() -> None:
    line = parse(["fit", "-c", "lift.yaml"])
    assert line.stage_config({"cache": "${run_dir}/features"}, "action") == {
        "cache": "runs/lift/features",
        "stage": "action",
        "run_dir": "runs/lift",
    }


def test_a_stage_that_does_not_run_takes_only_the_overrides_that_are_of_it_alone() -> None:
    line = parse(["fit", "-c", "x.yaml", "--a", "1", "--stages.action.b", "2", "--rollout.n", "3"])
    assert line.stage_config({}, "action", ("video",)).keys() == {"stage", "run_dir", "b", "rollout"}
    assert line.stage_config({}, "action", ("action",)).keys() == {"stage", "run_dir", "a", "b", "rollout"}


def test_the_recorded_experiment_holds_both_stages_and_the_run_directory() -> None:
    line = parse(["fit", "-c", "lift.yaml", "--trainer.max_steps", "3"])
    experiment = {"data": "D", "stages": {"video": {"n": 1}, "action": {"n": 2}}}
    recorded = merged_experiment(line, experiment, {"video": line.stage_config(experiment, "video")})
    assert recorded["run_dir"] == "runs/lift"
    assert stage_config(recorded, "video")["trainer"] == {"max_steps": 3}
    assert "trainer" not in stage_config(recorded, "action")
    assert stage_config(recorded, "action")["n"] == 2


def test_the_recorded_experiment_in_one_stage_gives_itself_back() -> None:
    line = parse(["fit", "-c", "joint.yaml", "--trainer.max_steps", "3"])
    experiment = {"data": "D", "stages": {"joint": {"n": 1}}}
    recorded = merged_experiment(line, experiment, {"joint": line.stage_config(experiment, "joint")})
    assert line.stages(recorded) == ("joint",)
    assert stage_config(recorded, "joint") == {
        "run_dir": "runs/joint",
        "data": "D",
        "n": 1,
        "trainer": {"max_steps": 3},
    }


def test_fit_without_an_experiment_says_what_to_type() -> None:
    with pytest.raises(CommandError, match=r"fit needs an experiment: lightning fit -c experiments/lift\.yaml"):
        parse(["fit"]).experiment()
