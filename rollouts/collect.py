"""Scripted demos from several workers, in the order of their seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rollouts.pool import WorkerPool
from simulators.config import SimulatorConfig
from simulators.experts.episode import ExpertSettings
from simulators.messages import DemoEpisode, EpisodeSpec


@dataclass(frozen=True)
class CollectedEpisode:
    """An expert's episode; `demo` is None and `error` says why if its workers were lost."""

    spec: EpisodeSpec
    demo: DemoEpisode | None
    error: str | None = None

    @property
    def success(self) -> bool | None:
        """Outcome; None after an error."""
        return None if self.demo is None else self.demo.success


def collect_demos(
    config: SimulatorConfig,
    episodes: Sequence[EpisodeSpec],
    num_workers: int = 1,
    settings: ExpertSettings | None = None,
    timeout_s: float = 600.0,
    max_retries: int = 2,
) -> Iterator[CollectedEpisode]:
    """Run the scripted expert in every episode.

    Yields:
        Episodes in the order given, whatever the number of workers, so that the same seeds give the same file.
    """
    finished: dict[int, CollectedEpisode] = {}
    turn = 0
    with WorkerPool(config, num_workers, timeout_s, max_retries=max_retries) as pool:
        pool.load(episodes, range(len(episodes)))
        while pool.busy:
            events = [
                pool.send(slot, "record", spec=job.spec, settings=settings or ExpertSettings())
                for slot, job in pool.assign()
            ]
            for event in [e for e in events if e is not None] or pool.wait(block=True):
                if event.death is None:
                    finished[event.job.index] = CollectedEpisode(event.job.spec, event.reply)
                    pool.finish(event.slot)
                elif not pool.retry(event):
                    finished[event.job.index] = CollectedEpisode(event.job.spec, None, str(event.death))
            while turn in finished:
                yield finished.pop(turn)
                turn += 1
