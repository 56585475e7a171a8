from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from rollouts import EpisodeResult, wilson_interval
from videopolicy.evaluation.variation_curve import Curve, Place, draw, to_markdown, write_curve

STANDARD = Place("", 0.0, "standard")


def results(*outcomes: bool | None) -> list[EpisodeResult]:
    return [EpisodeResult("s", "t", seed, None, success) for seed, success in enumerate(outcomes)]


@pytest.fixture
def curve() -> Curve:
    """Four episodes a point; the last of the camera's ended in an error."""
    made = Curve({"kind": "scripted"}, "lift", 4, {"name": "counting"})
    made.add(STANDARD, results(True, True, True, False))
    made.add(Place("camera", 2.0, "camera_2"), results(False, False, True, None))
    made.add(Place("position", 1.0, "position_1"), results(True, False, True, True))
    made.add(Place("camera", 1.0, "camera_1"), results(True, True, True, True))
    return made


def test_every_point_has_its_interval_and_its_pairs_with_the_standard(curve: Curve) -> None:
    standard, camera, position, _ = curve.points
    assert (standard.successes, standard.episodes, standard.rate, standard.p_value) == (3, 4, 0.75, None)
    assert (standard.low, standard.high) == wilson_interval(3, 4)
    assert (camera.successes, camera.episodes, camera.errors) == (1, 3, 1)
    assert (camera.lost, camera.won, camera.p_value) == (2, 0, 0.5)
    assert (position.lost, position.won, position.p_value) == (1, 1, 1.0)


def test_each_kind_begins_at_the_standard_and_goes_on_by_level(curve: Curve) -> None:
    kinds = curve.kinds()
    assert list(kinds) == ["camera", "position"]
    assert [(point.level, point.successes) for point in kinds["camera"]] == [(0.0, 3), (1.0, 4), (2.0, 1)]
    assert kinds["position"][0] is kinds["camera"][0]


def test_table_says_what_was_solved_lost_and_won(curve: Curve) -> None:
    text = to_markdown(curve)
    assert "# Success over variation: scripted, lift: 4 episodes a task and point" in text
    assert "| standard | 0 | 3/4 | 0.75 | 0.30 to 0.95 |  |  |  | 0 |" in text
    assert "| camera | 2 | 1/3 | 0.33 | 0.06 to 0.79 | 2 | 0 | 1 | 1 |" in text  # p .5, the smallest of three: Holm
    assert "corrected for the 3 comparisons of this table (Holm)" in text
    assert curve.table().row_count == 4


def test_a_checkpoint_is_named_with_its_run() -> None:
    path = "/data/runs/lift/action/checkpoints/last.ckpt"
    title = Curve({"kind": "checkpoint", "path": path}, "lift", 20, {}).title()
    assert title == "lift/action/checkpoints/last.ckpt, lift: 20 episodes a task and point"


def test_files_hold_the_points_and_the_picture_a_line_a_kind(curve: Curve, tmp_path: Path) -> None:
    write_curve(curve, tmp_path)
    content = json.loads((tmp_path / "curve.json").read_text())
    assert [(point["kind"], point["level"], point["rate"]) for point in content["points"][:2]] == [
        ("", 0.0, 0.75),
        ("camera", 2.0, 1 / 3),
    ]
    assert [(point["p_value"], point["p_value_holm"]) for point in content["points"][:2]] == [(None, None), (0.5, 1.0)]
    assert content["policy"] == {"kind": "scripted"}
    picture = Image.open(tmp_path / "curve.png").convert("RGB")
    colours = {colour for _, colour in picture.getcolors(picture.width * picture.height) or []}
    assert {(44, 160, 44), (31, 119, 180)} <= colours  # tab:green and tab:blue
    assert (148, 103, 189) not in colours  # no line of instructions
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.json", "curve.md", "curve.png"]


def test_a_point_without_any_outcome_is_no_rate_and_no_mark(tmp_path: Path) -> None:
    curve = Curve({"kind": "zero"}, "lift", 1, {})
    curve.add(STANDARD, results(None))
    write_curve(curve, tmp_path)
    assert json.loads((tmp_path / "curve.json").read_text())["points"][0]["rate"] is None
    assert not (tmp_path / "curve.png").exists()  # nothing varied yet
    curve.add(Place("camera", 1.0, "camera_1"), results(None))
    assert Image.open(io.BytesIO(draw(curve))).size[0] > 300
