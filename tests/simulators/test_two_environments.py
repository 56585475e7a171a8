"""One process drives what excludes one another: robosuite 1.4 on numpy 1 here, RoboCasa v1.0 on numpy 2 there."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rollouts.engine import RolloutEngine
from rollouts.worker_process import ask_once, check_simulator
from simulators.config import SimulatorConfig
from simulators.messages import PolicyReply, PolicyRequest

ROOT = Path(__file__).resolve().parents[2]
KITCHEN_CAMERAS = ["robot0_agentview_left", "robot0_eye_in_hand"]


class Wiggle:
    """Small seeded motions; remembers what it saw."""

    def __init__(self) -> None:
        self.seen: dict[str, list[PolicyRequest]] = {}

    def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
        for request in requests:
            self.seen.setdefault(request.episode.task, []).append(request)
        draws = [np.random.default_rng(request.seed).uniform(-0.3, 0.3, (8, 7)) for request in requests]
        return [PolicyReply(actions.astype(np.float32)) for actions in draws]


@pytest.fixture
def kitchen(monkeypatch: pytest.MonkeyPatch) -> SimulatorConfig:
    """OpenDrawer and CloseDrawer of RoboCasa v1.0 in the generated kitchen, in an environment of their own."""
    python = os.environ.get("ROBOCASA365_PYTHON", str(ROOT / ".venvs" / "robocasa365" / "bin" / "python"))
    if not Path(python).is_file():
        pytest.skip(f"no RoboCasa v1.0 at {python}: make sim-robocasa365, or set ROBOCASA365_PYTHON")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return SimulatorConfig(
        "small_kitchen:SmallKitchenSimulator",
        ["OpenDrawer", "CloseDrawer"],
        KITCHEN_CAMERAS,
        image_size=64,
        suite="robocasa365",
        max_steps=16,
        python=python,
    )


@pytest.mark.slow
@pytest.mark.simulator
@pytest.mark.timeout(900)
def test_robosuite_here_and_robocasa_on_another_numpy_there_in_one_run(kitchen: SimulatorConfig) -> None:
    pytest.importorskip("robosuite")
    table = SimulatorConfig("robosuite", ["Lift"], ["agentview", "robot0_eye_in_hand"], image_size=64, max_steps=16)
    versions = {"here": ask_once(table, "versions"), "there": ask_once(kitchen, "versions")}
    print(versions)
    assert versions["here"]["robosuite"].startswith("1.4")
    assert versions["there"]["praxis-robosuite"].startswith("1.5")
    majors = [versions[side]["numpy"].partition(".")[0] for side in ("here", "there")]
    if majors[0] == majors[1]:
        pytest.skip(f"both sides have numpy {majors[0]}: {versions}")
    policy = Wiggle()
    with (
        RolloutEngine(table, execute_steps=8, timeout_s=300) as one,
        RolloutEngine(check_simulator(kitchen), execute_steps=8, timeout_s=300) as other,
    ):
        results = one.run(policy, table.episodes(1), progress=False)
        results += other.run(policy, kitchen.episodes(2), progress=False)
        results += one.run(policy, table.episodes(1, first_seed=1), progress=False)  # its worker is still alive
    assert [(result.task, result.error) for result in results] == [
        ("Lift", None),
        ("OpenDrawer", None),
        ("CloseDrawer", None),
        ("Lift", None),
    ]
    assert all(result.steps == 16 and result.replans == 2 for result in results if not result.success)
    for task, requests in policy.seen.items():
        cameras = table.cameras if task == "Lift" else KITCHEN_CAMERAS
        for request in requests:
            assert list(request.observation.images) == cameras
            assert all(picture.std() > 3 for picture in request.observation.images.values())
        first, second = (request.observation.proprio["eef_pos"] for request in requests[:2])
        assert 0 < np.linalg.norm(first - second) < 0.3
    assert policy.seen["OpenDrawer"][0].observation.instruction.startswith("Open the")
    assert policy.seen["CloseDrawer"][0].observation.instruction.startswith("Close the")
