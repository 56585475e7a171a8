from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from rollouts.engine import RolloutEngine
from rollouts.policies import Actor, RandomPolicy, ScriptedPolicy, ZeroPolicy
from rollouts.results import EpisodeResult
from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError
from simulators.messages import EpisodeSpec, PolicyReply, PolicyRequest, policy_seed

Counting = Callable[..., SimulatorConfig]


class NoisyPolicy:
    """Adds its seeded noise to the count; remembers the sizes of its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.seen: list[PolicyRequest] = []

    def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
        self.batches.append(len(requests))
        self.seen += requests
        return [self._reply(request) for request in requests]

    def _reply(self, request: PolicyRequest) -> PolicyReply:
        noise = np.random.default_rng(request.seed).uniform(0.0, 0.5, (8, 2))
        prediction = np.full((1, 2, 4, 4, 3), request.replan, dtype=np.uint8) if request.want_prediction else None
        return PolicyReply(noise.astype(np.float32), prediction)


def outcomes(results: list[EpisodeResult]) -> list[tuple[str, bool | None, int, int]]:
    return [(r.key, r.success, r.steps, r.replans) for r in results]


def run(config: SimulatorConfig, episodes: int, **settings: object) -> list[EpisodeResult]:
    with RolloutEngine(config, execute_steps=4, **settings) as engine:  # type: ignore[arg-type]
        return engine.run(NoisyPolicy(), config.episodes(episodes), progress=False)


def test_one_and_three_workers_give_the_same_results_in_the_same_order(counting: Counting) -> None:
    config = counting(["up", "down"], options={"goal": 16.0, "delay_s": 0.002})
    alone, together = run(config, 9), run(config, 9, num_workers=3)
    assert outcomes(alone) == outcomes(together)
    assert len({r.steps for r in alone}) > 1  # the seeds do make a difference
    assert all(r.success for r in alone)


def test_policy_seeds_differ_by_episode_and_replan_and_never_change() -> None:
    spec = EpisodeSpec("s", "t", 0)
    seeds = {policy_seed(spec, 0), policy_seed(spec, 1), policy_seed(EpisodeSpec("s", "t", 1), 0)}
    assert len(seeds) == 3
    assert policy_seed(spec, 0) == 2174330225850359770


def test_waiting_observations_are_answered_in_one_batch(counting: Counting) -> None:
    config = counting(options={"goal": 1e9, "delay_s": 0.05}, max_steps=16)
    policy = NoisyPolicy()
    with RolloutEngine(config, num_workers=3, execute_steps=4) as engine:
        engine.run(policy, config.episodes(3), progress=False)
        first = len(policy.batches)
        engine.run(policy, config.episodes(3, first_seed=3), progress=False)  # the same workers, warm now
    assert sum(policy.batches[first:]) == 3 * 4
    assert max(policy.batches) > 1


def test_no_worker_idles_while_the_policy_thinks(counting: Counting) -> None:
    """A worker whose episode has ended gets the next one before the policy is asked for the others."""
    config = counting(["up", "down"], options={"goal": 5.0}, max_steps=12)
    idle: list[int] = []

    class Slow(NoisyPolicy):
        def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
            queued = len(engine.pool._queue)
            idle.append(min(queued, engine.pool.num_workers - len(engine._episodes)))
            time.sleep(0.02)  # answers gather meanwhile
            return super().act(requests)

    with RolloutEngine(config, num_workers=3, execute_steps=4) as engine:
        engine.run(Slow(), config.episodes(18), progress=False)
    assert max(idle) == 0, f"idle workers at each call: {idle}"


def test_the_step_limit_ends_an_episode_as_a_failure_and_only_wanted_actions_are_executed(counting: Counting) -> None:
    (result,) = run(counting(options={"goal": 1e9}, max_steps=10), 1)
    assert (result.success, result.steps, result.replans) == (False, 10, 3)  # 4 + 4 + 2


def test_known_outcomes_are_not_run_again_but_known_errors_are(counting: Counting) -> None:
    config = counting()
    episodes = config.episodes(4)
    policy = NoisyPolicy()
    with RolloutEngine(config, execute_steps=4) as engine:
        first = engine.run(policy, episodes[:3], progress=False)
        known = {result.key: result for result in first}
        known[episodes[1].key] = EpisodeResult("counting", "up", 1, None, None, error="lost")
        asked = len(policy.seen)
        new: list[EpisodeResult] = []
        again = engine.run(policy, episodes, known, progress=False, on_result=new.append)
    assert [r.seed for r in new] == [1, 3]
    assert {request.episode.seed for request in policy.seen[asked:]} == {1, 3}
    assert outcomes(again)[:3] == outcomes(first)


def test_a_result_says_all_that_its_episode_depended_on(counting: Counting, tmp_path: Path) -> None:
    (result,) = run(counting(["crash"], options={"once": str(tmp_path)}, max_steps=10), 1)
    assert (result.execute_steps, result.max_steps, result.instruction) == (4, 10, "count")
    assert result.attempts == 2  # its worker was killed once
    assert result.variation == {}


def test_recordings_hold_frames_on_the_stride_and_the_last_one_and_all_predictions(counting: Counting) -> None:
    first, second = run(counting(options={"goal": 1e9}, max_steps=10), 2, record_episodes=1, record_stride=4)
    assert second.recording is None
    recording = first.recording
    assert recording is not None
    assert recording.steps == [0, 4, 8, 10]
    assert [int(frame["left"][0, 0, 0]) for frame in recording.frames] == [0, 4, 8, 10]
    assert [(p.step, int(p.frames.max())) for p in recording.predictions] == [(0, 0), (4, 1), (8, 2)]


def test_nothing_is_rendered_for_a_blind_policy(counting: Counting) -> None:
    policy = NoisyPolicy()
    policy.needs_images = False  # type: ignore[attr-defined]
    config = counting()
    with RolloutEngine(config) as engine:
        engine.run(policy, config.episodes(1), progress=False)
    assert all(not request.observation.images for request in policy.seen)


@pytest.mark.parametrize("policy", [ScriptedPolicy(), RandomPolicy(4), ZeroPolicy(4)], ids=lambda p: type(p).__name__)
def test_policies_without_a_network_give_the_same_results_with_any_number_of_workers_and_draw_nothing(
    counting: Counting, policy: Actor
) -> None:
    config = counting(["up", "down"], options={"goal": 5.0, "render_s": 60.0, "delay_s": 0.002})  # a picture hangs
    runs = []
    for num_workers in (1, 2, 4):
        with RolloutEngine(config, num_workers, execute_steps=4, timeout_s=20.0, max_retries=0) as engine:
            runs.append(outcomes(engine.run(policy, config.episodes(6), progress=False)))
    assert runs[0] == runs[1] == runs[2]
    assert all(success is not None for _, success, _, _ in runs[0])


def test_the_scripted_expert_is_driven_in_the_worker_step_by_step(counting: Counting) -> None:
    config = counting(options={"goal": 5.0}, max_steps=10)
    with RolloutEngine(config, execute_steps=4, record_episodes=2, record_stride=2) as engine:
        even, odd = engine.run(ScriptedPolicy(), config.episodes(2), progress=False)
    assert (even.success, even.replans) == (True, 2)  # one a step, starting below one: solved by step 5
    assert (odd.success, odd.steps, odd.replans) == (False, 10, 3)  # this expert gives up on odd seeds
    assert odd.recording is not None
    assert odd.recording.steps == [0, 2, 4, 6, 8, 10]


def test_a_scripted_run_of_a_task_without_an_expert_says_so(counting: Counting) -> None:
    config = counting(options={"no_expert": True})
    with RolloutEngine(config) as engine, pytest.raises(SimulatorError, match="nobody knows how to count"):
        engine.run(ScriptedPolicy(), config.episodes(1), progress=False)


def test_random_actions_lie_within_bounds_and_differ_by_episode(counting: Counting) -> None:
    config = counting(options={"goal": 1e9}, max_steps=8)
    seen: list[PolicyReply] = []

    class Watched(RandomPolicy):
        def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
            seen.extend(replies := super().act(requests))
            return replies

    with RolloutEngine(config, execute_steps=4) as engine:
        engine.run(Watched(4), config.episodes(2), progress=False)
    chunks = np.stack([reply.actions for reply in seen])
    assert chunks.shape == (4, 4, 2)
    assert len(np.unique(chunks)) == chunks.size
    assert chunks.min() < -0.5 < 0.5 < chunks.max()
    assert np.abs(chunks).max() <= 1.0


def test_an_action_that_is_too_wide_is_refused_before_a_step_is_taken(counting: Counting) -> None:
    class Wide:
        def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
            return [PolicyReply(np.zeros((4, 7), np.float32)) for _ in requests]

    config = counting()
    results: list[EpisodeResult] = []
    with RolloutEngine(config) as engine, pytest.raises(SimulatorError, match=r"gives 7 numbers .* takes 2"):
        engine.run(Wide(), config.episodes(1), progress=False, on_result=results.append)
    assert not results


@pytest.mark.parametrize("accident", ["crash", "hang", "raise"])
def test_a_lost_worker_costs_a_retry_and_nothing_else(counting: Counting, tmp_path: Path, accident: str) -> None:
    config = counting([accident, "up"], options={"once": str(tmp_path)})
    calm = counting([accident, "up"], options={"once": str(tmp_path)})  # the marks make the second run calm
    disturbed = run(config, 4, num_workers=2, timeout_s=2.0)
    assert outcomes(disturbed) == outcomes(run(calm, 4))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("accident", "message"), [("crash", "exit code -9"), ("raise", "the counter overflowed")])
def test_an_episode_that_always_loses_its_worker_is_an_error_not_a_failure(
    counting: Counting, accident: str, message: str
) -> None:
    lost, fine = run(counting([accident, "up"]), 2, max_retries=1)
    assert lost.success is None
    assert message in (lost.error or "")
    assert fine.success is True


def test_a_worker_killed_from_outside_in_the_middle_of_an_episode_is_replaced(counting: Counting) -> None:
    config = counting(options={"goal": 16.0})
    engine = RolloutEngine(config, num_workers=2, execute_steps=4)

    class Killer(NoisyPolicy):
        killed = 0

        def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
            if requests[0].replan == 1 and self.killed < 2:
                self.killed += 1
                os.kill(next(iter(engine.pool.pids().values())), signal.SIGKILL)
            return super().act(requests)

    with engine:
        results = engine.run(policy := Killer(), config.episodes(4), progress=False)
    assert policy.killed == 2
    assert outcomes(results) == outcomes(run(config, 4))


def test_a_users_mistake_found_by_the_worker_stops_the_run_and_the_engine_can_go_on(counting: Counting) -> None:
    config = counting(["mistake", "up"])
    with RolloutEngine(config, num_workers=2) as engine:
        with pytest.raises(SimulatorError, match="this task is a mistake"):
            engine.run(NoisyPolicy(), config.episodes(2), progress=False)
        assert engine.run(NoisyPolicy(), config.episodes(2)[1:], progress=False)[0].success


def test_a_simulator_that_never_starts_is_reported_once_and_not_for_every_episode(
    counting: Counting, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no libGL here >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(SimulatorError, match=r"does not start a worker: .*exit code 3.*no libGL here"):
        run(counting(python=str(python)), 20)


def test_workers_lost_before_the_first_answer_do_not_end_a_run_while_others_start(
    counting: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a machine has memory for 3 of 6 workers: the kernel kills the others while they import."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "simulators"))
    marks = tmp_path / "marks"
    marks.mkdir()
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\nfor place in 1 2 3; do mkdir {marks}/$place 2>&- && kill -9 $$; done\n"  # one dies for each place
        f'sleep 1\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    results = run(counting(python=str(python), options={"goal": 4.0}), 8, num_workers=6)
    assert [result.success for result in results] == [True] * 8
    assert sum(result.attempts > 1 for result in results) >= 1


def test_actions_that_are_not_finite_are_refused(counting: Counting) -> None:
    class Diverged:
        def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
            return [PolicyReply(np.full((4, 2), np.nan)) for _ in requests]

    config = counting()
    with RolloutEngine(config) as engine, pytest.raises(SimulatorError, match="8 numbers that are not finite"):
        engine.run(Diverged(), config.episodes(1), progress=False)


def test_no_worker_outlives_its_engine(counting: Counting) -> None:
    config = counting()
    with RolloutEngine(config, num_workers=2) as engine:
        engine.run(NoisyPolicy(), config.episodes(2), progress=False)
        pids = list(engine.pool.pids().values())
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("execute_steps", "past"), [(4, {0: [], 4: [2, 3]}), (2, {0: [], 2: [0, 1]}), (1, {0: [], 1: [0], 6: [4, 5]})]
)
def test_a_policy_that_wants_three_observations_gets_those_before_the_current_one(
    execute_steps: int, past: dict[int, list[int]], counting: Counting
) -> None:
    policy = NoisyPolicy()
    policy.num_observations = 3  # type: ignore[attr-defined]
    config = counting(["up"], max_steps=7, options={"goal": 1000})
    with RolloutEngine(config, execute_steps=execute_steps) as engine:
        result = engine.run(policy, config.episodes(1), progress=False)[0]
    assert (result.steps, result.success) == (7, False)
    seen = {request.observation.step: request.observation for request in policy.seen}
    for step, earlier in past.items():
        assert [observation.step for observation in seen[step].past] == earlier
        assert [observation.images["left"][0, 0, 0] for observation in seen[step].past] == earlier  # the count
    totals = [float(observation.proprio["total"][0]) for observation in seen.values()]
    assert totals == sorted(totals)


def test_earlier_observations_change_nothing_about_the_episode(counting: Counting) -> None:
    config = counting(["up"], options={"goal": 12.0})
    results = []
    for count in (1, 2):
        policy = NoisyPolicy()
        policy.num_observations = count  # type: ignore[attr-defined]
        with RolloutEngine(config, execute_steps=4, record_episodes=1, record_stride=3) as engine:
            results.append(engine.run(policy, config.episodes(2), progress=False))
    assert outcomes(results[0]) == outcomes(results[1])
    first, second = (result[0].recording for result in results)
    assert first is not None
    assert second is not None
    assert first.steps == second.steps
