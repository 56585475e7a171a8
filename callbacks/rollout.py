"""Success rates in a simulator, after validations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.clips import log_clip, side_by_side, write_clip
from callbacks.demo_differences import differences
from callbacks.run_folder import run_folder
from datamodules.demo_origin import origin_of
from files.errors import UserError
from lightning_modules import PolicyStage
from rollouts import EpisodeResult, ResultsFile, RolloutEngine, summarize
from rollouts.protocol import RolloutProtocol
from rollouts.survey import Survey
from rollouts.worker_process import survey_simulator
from simulators import EpisodeSpec

SLOWEST_RANK = timedelta(days=7)  # how long ranks that have played their episodes wait for the others


class SimulationRollout(Callback):
    """Roll the policy out with the weights of the moment and log how often it succeeds.

    Runs at the end of validations of the action or joint stage (not in the sanity check), and in ``lightning validate``
    and ``test``, in the trainer's precision; where no demo is held out, when there would be a validation. Logs
    ``rollout/<task>/success_rate``, ``rollout/success_rate`` (mean over tasks; monitor this), its 95 % interval
    (Wilson's, with the tasks as strata), ``rollout/episode_length``, ``rollout/seconds_per_replan`` and
    ``rollout/errors``. Under DDP the ranks share the episodes, and wait for the slowest. Recorded episodes become
    videos with executed above predicted frames, as files and in TensorBoard.

    Args:
        protocol: Simulator, tasks, cameras, steps between replans, groups, time limit; its
            numbers of episodes and its seeds are the evaluation's. Without groups, where the data has
            ``video_only_tasks`` or ``evaluation_only_tasks``, they are ``learned``, ``video_only`` and ``unseen``.
        num_episodes: Episodes in all, spread evenly over the tasks.
        first_seed: Seed of the first episode; choose it so that no demo started from it.
        num_workers: Simulator processes a rank.
        every_n_epochs: While training, roll out in every n-th validation: the n-th, the 2n-th, ...; also where several
            validations fall into one epoch of training, or one into several. A run that goes on counts on.
        record_episodes: Episodes whose video is kept, over all ranks.
        folder: Where results (JSON lines) and videos go; `rollouts` beside the logger's files if None.
    """

    def __init__(
        self,
        protocol: RolloutProtocol,
        num_episodes: int,
        first_seed: int = 100_000,
        num_workers: int = 1,
        every_n_epochs: int = 1,
        record_episodes: int = 2,
        folder: str | None = None,
    ) -> None:
        counts = {"num_episodes": num_episodes, "num_workers": num_workers}
        for name, value in {**counts, "every_n_epochs": every_n_epochs}.items():
            if value < 1:
                raise UserError(f"SimulationRollout.{name} is {value}; it must be at least 1.")
        self.protocol = protocol
        self.simulator = protocol.simulator  # its tasks are named at set-up
        self.groups = protocol.groups
        self.num_episodes = num_episodes
        self.first_seed = first_seed
        self.num_workers = num_workers
        self.every_n_epochs = every_n_epochs
        self.record_episodes = record_episodes
        self.folder = Path(folder) if folder is not None else None
        self._engine: RolloutEngine | None = None
        self._num_validations = 0  # of this run; the sanity check is none
        self._patient_group: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out now, not after hours of training, whether the simulator runs and shows what the policy needs."""
        if not isinstance(pl_module, PolicyStage):
            raise UserError(
                f"SimulationRollout needs the action or joint stage, not {type(pl_module).__name__}; "
                "move `rollout` to stages.action."
            )
        datamodule = getattr(trainer, "datamodule", None)
        data = datamodule.preprocessing if datamodule is not None else pl_module.data
        cameras = data.cameras
        if missing := [camera for camera in cameras if camera not in self.simulator.cameras]:
            raise UserError(
                f"rollout.protocol.simulator.cameras is {list(self.simulator.cameras)} but the policy was trained on "
                f"{list(cameras)}; add {missing}."
            )
        self._look_at(survey_simulator(self.simulator), datamodule)  # on every rank
        self._check_groups(datamodule)
        self._warn_of_what_is_ignored(trainer, data.action_horizon)
        if datamodule is not None:
            datamodule.validate_without_demos = True
        if trainer.world_size > 1:
            self._patient_group = dist.new_group(backend="gloo", timeout=SLOWEST_RANK)

    def _look_at(self, survey: Survey, datamodule: Any) -> None:  # noqa: ANN401 - any LightningDataModule
        """Name the tasks, and warn of what rollouts show and tell the policy otherwise than the demos."""
        if self.simulator.tasks == ["all"]:
            self.simulator = replace(self.simulator, tasks=survey.tasks)
        if (origin := origin_of(datamodule)) is not None:
            for difference in differences(origin, self.simulator, survey):
                rank_zero_warn(f"SimulationRollout: {difference}")

    def _check_groups(self, datamodule: Any) -> None:  # noqa: ANN401 - any LightningDataModule
        if not self.groups:
            self.groups = _groups_of(datamodule, self.simulator.tasks)
        for name, members in self.groups.items():
            if unknown := [task for task in members if task not in self.simulator.tasks]:
                raise UserError(
                    f"rollout.protocol.groups: {name!r} names {unknown}, which are not rolled out; "
                    f"the tasks are {self.simulator.tasks}."
                )
            if name in self.simulator.tasks:
                raise UserError(f"rollout.protocol.groups: {name!r} is a task; name the group anew.")

    def _warn_of_what_is_ignored(self, trainer: Trainer, action_horizon: int) -> None:
        execute_steps = self.protocol.execute_steps
        if execute_steps > action_horizon:
            rank_zero_warn(
                f"rollout.protocol.execute_steps is {execute_steps}, but the policy gives {action_horizon} "
                f"actions at a time, so it is asked again after {action_horizon}; set execute_steps to at most that."
            )
        testing = trainer.state.fn == TrainerFn.TESTING
        limit = "limit_test_batches" if testing else "limit_val_batches"
        if not getattr(trainer, limit):
            rank_zero_warn(
                f"SimulationRollout rolls out when the trainer validates, but trainer.{limit} is 0, so it never will; "
                "set it to 1 or more (to train on every demo and still roll out, set data.init_args.val_fraction to 0)."
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count; at the start, since a run that is stopped in the middle goes on after this validation."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._num_validations += 1

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Roll out and log; every rank logs the same numbers."""
        if trainer.sanity_checking:
            return
        if trainer.state.fn != TrainerFn.FITTING or self._num_validations % self.every_n_epochs == 0:
            self._roll_out(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Roll out as on validation."""
        self._roll_out(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """How many validations there were, for `every_n_epochs`."""
        return {"num_validations": self._num_validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on."""
        self._num_validations = state_dict["num_validations"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the protocol, so that `videopolicy evaluate` repeats it from the checkpoint alone."""
        checkpoint["rollout"] = self.record()

    def record(self) -> dict[str, Any]:
        """What decides the episodes, as plain values."""
        return {
            "simulator": self.simulator.to_dict(),
            "num_episodes": self.num_episodes,
            "first_seed": self.first_seed,
            "execute_steps": self.protocol.execute_steps,
            "timeout_s": self.protocol.timeout_s,
            "groups": self.groups,
        }

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop the simulator processes and give the data back as it was."""
        if getattr(trainer, "datamodule", None) is not None:
            trainer.datamodule.validate_without_demos = False  # type: ignore[attr-defined]
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        if self._patient_group is not None:
            dist.destroy_process_group(self._patient_group)
            self._patient_group = None

    def _roll_out(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, PolicyStage)
        folder = self._folder(trainer)
        episodes = self.simulator.episodes(self.num_episodes, self.first_seed)
        share = episodes[trainer.global_rank :: trainer.world_size]
        with trainer.precision_plugin.val_step_context():
            results = self._run(trainer, pl_module, share)
        for result in results:
            self._save_recording(trainer, folder, result)
        results = [replace(result, recording=None) for result in results]
        if trainer.world_size > 1:
            shares: list[list[EpisodeResult]] = [[] for _ in range(trainer.world_size)]
            dist.all_gather_object(shares, results, group=self._patient_group)
            results = [result for part in shares for result in part]
        if trainer.is_global_zero:
            path = folder / f"step_{trainer.global_step:07d}.jsonl"
            path.unlink(missing_ok=True)  # an epoch that is run again after a crash
            for result in results:
                ResultsFile(path).append(result)
        self._log(pl_module, results)

    def _run(self, trainer: Trainer, stage: PolicyStage, share: Sequence[EpisodeSpec]) -> list[EpisodeResult]:
        if self._engine is None:
            self._engine = RolloutEngine(
                self.simulator,
                num_workers=self.num_workers,
                execute_steps=self.protocol.execute_steps,
                timeout_s=self.protocol.timeout_s,
                record_episodes=len(range(trainer.global_rank, self.record_episodes, trainer.world_size)),
                record_stride=stage.data.frame_stride,
            )
        return self._engine.run(stage.policy, share, progress=trainer.is_global_zero)

    def _log(self, pl_module: LightningModule, results: list[EpisodeResult]) -> None:
        summary = summarize(results, self.groups)
        for task in summary.tasks:
            pl_module.log(f"rollout/{task.task}/success_rate", task.success_rate)
        for group in summary.groups:
            pl_module.log(f"rollout/{group.name}/success_rate", group.mean_success_rate)
        if total_errors := summary.total.errors:
            first = next(result.error for result in results if result.success is None)
            rank_zero_warn(f"{total_errors} of {len(results)} episodes ended in an error, the first: {first}")
        total = summary.total
        pl_module.log_dict(
            {
                "rollout/success_rate": summary.mean_success_rate,
                "rollout/success_rate_low": summary.mean_interval[0],
                "rollout/success_rate_high": summary.mean_interval[1],
                "rollout/episode_length": total.mean_steps,
                "rollout/seconds_per_replan": total.seconds_per_replan,
                "rollout/errors": float(total.errors),
            }
        )
        pl_module.log("success_rate", summary.mean_success_rate, prog_bar=True, logger=False)

    def _save_recording(self, trainer: Trainer, folder: Path, result: EpisodeResult) -> None:
        if result.recording is None:
            return
        clip = side_by_side(result.recording)
        name = f"{result.task}_seed{result.seed}"
        write_clip(folder / f"step_{trainer.global_step:07d}_{name}.mp4", clip)
        log_clip(trainer.loggers, f"rollout/{name}", clip, trainer.global_step)

    def _folder(self, trainer: Trainer) -> Path:
        return self.folder or run_folder(trainer) / "rollouts"


def _groups_of(datamodule: Any, tasks: Sequence[str]) -> dict[str, list[str]]:  # noqa: ANN401 - any LightningDataModule
    """Tasks by what was learned of them, where the data tells them apart; those that are not rolled out left out."""
    held_out = [*getattr(datamodule, "video_only_tasks", ()), *getattr(datamodule, "evaluation_only_tasks", ())]
    if not held_out:
        return {}
    if unknown := [task for task in getattr(datamodule, "evaluation_only_tasks", ()) if task not in tasks]:
        raise UserError(
            f"data.init_args.evaluation_only_tasks names {unknown}, which are not rolled out; the tasks are {tasks}."
        )
    groups = {use: [task for task in names if task in tasks] for use, names in datamodule.tasks_by_use.items()}
    return {use: names for use, names in groups.items() if names}
