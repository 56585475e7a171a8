"""Roll a policy out in many episodes at once: workers step while the policy answers whoever waits, in one batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from rollouts.policies import Actor, ScriptedPolicy
from rollouts.pool import Event, Job, WorkerPool
from rollouts.progress import EpisodeProgress
from rollouts.results import EpisodeResult, Prediction, Recording
from rollouts.statistics import wilson_interval
from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError
from simulators.messages import EpisodeSpec, Images, Observation, PolicyReply, PolicyRequest, Transition, policy_seed


@dataclass
class _Episode:
    """An episode under way on one slot."""

    job: Job
    started: float
    observation: Observation | None = None  # set while it waits for the policy
    instruction: str = ""
    max_steps: int = 0
    steps: int = 0
    replans: int = 0
    policy_s: float = 0.0
    recording: Recording | None = None

    def result(self, success: bool | None, error: str | None = None) -> EpisodeResult:
        spec = self.job.spec
        return EpisodeResult(
            suite=spec.suite,
            task=spec.task,
            seed=spec.seed,
            init_state=spec.init_state,
            success=success,
            steps=self.steps,
            replans=self.replans,
            wall_s=round(time.monotonic() - self.started, 3),
            policy_s=round(self.policy_s, 4),
            error=error,
            attempts=self.job.attempts + (error is None),
            instruction=self.instruction,
            max_steps=self.max_steps,
            recording=self.recording,
        )


class RolloutEngine:
    """Run episodes; a context manager that keeps its workers alive between runs.

    Same episodes, same policy: starts and the policy's noise are equal for any number of workers. A network answers
    whoever waits in one batch, so its actions are equal up to rounding, which contacts may amplify. A worker that
    crashes or hangs costs its own episode only, which starts again on a new worker and is recorded with `success=None`
    when its retries are used up.

    Args:
        config: Which simulator.
        num_workers: Worker processes.
        execute_steps: Actions executed of every chunk before the policy is asked again.
        timeout_s: A chunk or reset that takes longer counts as a hang; a reset that builds a task gets at least 300 s.
        max_retries: How often an episode starts again after losing its worker.
        record_episodes: Keep pictures of the first so many episodes of a run.
        record_stride: Steps between kept pictures.
    """

    def __init__(
        self,
        config: SimulatorConfig,
        num_workers: int = 1,
        execute_steps: int = 16,
        timeout_s: float = 120.0,
        max_retries: int = 2,
        record_episodes: int = 0,
        record_stride: int = 4,
    ) -> None:
        if execute_steps < 1:
            raise SimulatorError(f"execute_steps is {execute_steps}; it must be at least 1.")
        if record_stride < 1:
            raise SimulatorError(f"record_stride is {record_stride}; it must be at least 1.")
        self.config = config
        self.execute_steps = execute_steps
        self.record_episodes = record_episodes
        self.record_stride = record_stride
        self.pool = WorkerPool(config, num_workers, timeout_s, max_retries=max_retries)
        self._episodes: dict[int, _Episode] = {}  # slot -> what runs there
        self._render, self._num_observations = True, 1

    def run(
        self,
        policy: Actor,
        episodes: Sequence[EpisodeSpec],
        known: Mapping[str, EpisodeResult] | None = None,
        progress: bool = True,
        on_result: Callable[[EpisodeResult], None] | None = None,
    ) -> list[EpisodeResult]:
        """Run every episode once and return the results in the order of `episodes`.

        Args:
            policy: Answers batches of requests. With an attribute `needs_images = False` nothing is rendered for it;
                `num_observations` is how many of the last observations it wants, 1 without it.
            episodes: What to run.
            known: Episode key -> its result from an earlier run of this policy. Those with an outcome are not run
                again; those that ended in an error are.
            progress: Show a bar.
            on_result: Called with every new result.
        """
        done = {key: result for key, result in (known or {}).items() if result.success is not None}
        results = {index: done[spec.key] for index, spec in enumerate(episodes) if spec.key in done}
        todo = [index for index in range(len(episodes)) if index not in results]
        self._render = bool(getattr(policy, "needs_images", True))
        self._num_observations = int(getattr(policy, "num_observations", 1))
        self._episodes.clear()
        self.pool.load([episodes[index] for index in todo], todo)
        with EpisodeProgress("rollouts", len(episodes), len(results), progress) as bar:
            while self.pool.busy:
                for index, result in self._advance(policy):
                    results[index] = result
                    if on_result is not None:
                        on_result(result)
                    bar.advance(_note(results.values()))
        return [results[index] for index in range(len(episodes))]

    def _advance(self, policy: Actor) -> list[tuple[int, EpisodeResult]]:
        """One turn: start episodes, take in answers, let the policy answer; returns the episodes that ended."""
        events = self._start_episodes()
        waiting = any(episode.observation is not None for episode in self._episodes.values())
        events += self.pool.wait(block=not waiting and not events)
        ended = [self._take(event) for event in events]
        # Whoever has just finished resets while the policy thinks.
        ended += [self._take(event) for event in self._start_episodes()]
        ended += [self._take(event) for event in self._ask(policy)]
        return [item for item in ended if item is not None]

    def _start_episodes(self) -> list[Event]:
        """Give idle workers their next episodes; returns the deaths noticed while asking them to reset."""
        deaths = []
        for slot, job in self.pool.assign():
            self._episodes[slot] = _Episode(job, time.monotonic(), recording=self._new_recording(job.index))
            deaths.append(self.pool.send(slot, "reset", spec=job.spec, render=self._wants_images(slot)))
        return [death for death in deaths if death is not None]

    def _take(self, event: Event) -> tuple[int, EpisodeResult] | None:
        """Take in a worker's answer or death; returns the result if that ended the episode."""
        episode = self._episodes[event.slot]
        if event.death is not None:
            del self._episodes[event.slot]
            if self.pool.retry(event):
                return None
            episode.recording = None
            return event.job.index, self._result(episode, None, error=str(event.death))
        if isinstance(event.reply, Observation):
            episode.observation = event.reply
            episode.instruction, episode.max_steps = event.reply.instruction, event.reply.max_steps
            self._record(episode, [event.reply.images])
            return None
        transition: Transition = event.reply
        episode.steps += transition.num_steps
        self._record(episode, transition.frames)
        if not transition.done:
            episode.observation = transition.observation
            return None
        del self._episodes[event.slot]
        self.pool.finish(event.slot)
        return event.job.index, self._result(episode, transition.success)

    def _result(self, episode: _Episode, success: bool | None, error: str | None = None) -> EpisodeResult:
        """What there is to say of an episode, with the settings of this engine that it depended on."""
        result = episode.result(success, error)
        result.execute_steps = self.execute_steps
        result.variation = dict(self.config.variation)
        return result

    def _ask(self, policy: Actor) -> list[Event]:
        """One batched policy call for all that wait; returns the deaths noticed while sending the actions."""
        waiting = {slot: episode for slot, episode in self._episodes.items() if episode.observation is not None}
        if not waiting:
            return []
        if isinstance(policy, ScriptedPolicy):
            return self._let_expert_act(waiting)
        requests = [_request(episode) for episode in waiting.values()]
        start = time.monotonic()
        replies = policy.act(requests)
        share = (time.monotonic() - start) / len(requests)
        assert len(replies) == len(requests), f"the policy answered {len(replies)} of {len(requests)} requests"
        deaths = []
        for (slot, episode), reply in zip(waiting.items(), replies, strict=True):
            self._note_reply(episode, reply, share)
            actions = np.asarray(reply.actions[: self.execute_steps], dtype=np.float32)
            wanted = {**self._pictures(slot), "num_observations": self._num_observations}
            deaths.append(self.pool.send(slot, "step_chunk", actions=actions, **wanted))
        return [death for death in deaths if death is not None]

    def _let_expert_act(self, waiting: Mapping[int, _Episode]) -> list[Event]:
        """Have the workers' own experts take the next steps; returns the deaths noticed while asking."""
        deaths = []
        for slot, episode in waiting.items():
            episode.observation = None
            episode.replans += 1
            steps = self.execute_steps
            deaths.append(self.pool.send(slot, "step_expert", num_steps=steps, **self._pictures(slot)))
        return [death for death in deaths if death is not None]

    def _pictures(self, slot: int) -> dict[str, Any]:
        """What a worker has to draw during the next chunk."""
        stride = self.record_stride if self._episodes[slot].recording else 0
        return {"render": self._wants_images(slot), "record_stride": stride}

    def _note_reply(self, episode: _Episode, reply: PolicyReply, seconds: float) -> None:
        if reply.actions.ndim != 2 or len(reply.actions) == 0 or not np.isfinite(reply.actions).all():
            raise SimulatorError(
                f"the policy gave actions of shape {reply.actions.shape} with "
                f"{int((~np.isfinite(reply.actions)).sum())} numbers that are not finite "
                f"(episode {episode.job.spec.key}, replan {episode.replans}); check that its training did not diverge."
            )
        assert episode.observation is not None
        width = episode.observation.action_dim
        if width and reply.actions.shape[1] != width:
            raise SimulatorError(
                f"the policy gives {reply.actions.shape[1]} numbers an action, but task {episode.job.spec.task!r} "
                f"takes {width}; judge it in the simulator it was trained for."
            )
        if episode.recording is not None and reply.prediction is not None:
            episode.recording.predictions.append(Prediction(episode.steps, reply.prediction))
        episode.observation = None
        episode.replans += 1
        episode.policy_s += seconds

    def _new_recording(self, index: int) -> Recording | None:
        if index >= self.record_episodes:
            return None
        return Recording(list(self.config.cameras), [], [], [], self.record_stride)

    def _record(self, episode: _Episode, frames: list[Images]) -> None:
        """Keep frames; only the last may lie off the stride."""
        if episode.recording is None:
            return
        for frame in frames:
            step = episode.recording.steps[-1] + self.record_stride if episode.recording.steps else 0
            episode.recording.steps.append(min(step, episode.steps))
            episode.recording.frames.append(frame)

    def _wants_images(self, slot: int) -> bool:
        return self._render or self._episodes[slot].recording is not None

    def close(self) -> None:
        """End the workers."""
        self.pool.close()

    def __enter__(self) -> RolloutEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _request(episode: _Episode) -> PolicyRequest:
    assert episode.observation is not None
    spec = episode.job.spec
    seed = policy_seed(spec, episode.replans)
    return PolicyRequest(episode.observation, spec, episode.replans, seed, episode.recording is not None)


def _note(results: Iterable[EpisodeResult]) -> str:
    """Counts and interval for the progress line."""
    outcomes = [result.success for result in results]
    errors = outcomes.count(None)
    successes, episodes = outcomes.count(True), len(outcomes) - errors
    low, high = wilson_interval(successes, episodes)
    solved = f"{successes} of {episodes} solved ({low:.2f} to {high:.2f})"
    return f"{solved}, {errors} errors" if errors else solved
