"""How a checkpoint's policy samples, changed at evaluation: steps, scheduler, guidance, noise level of the video."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from files.errors import UserError
from networks import NoiseSchedule, Sampler, config_of
from policies import DiffusionPolicy, FixedLevel, Policy, RandomLevel, SharedLevels, VideoPolicy


@dataclass(frozen=True)
class SamplingOverrides:
    """What differs from the checkpoint's own sampling; None leaves it.

    Args:
        action_steps: Denoising steps of the actions.
        action_scheduler: A scheduler of `networks.Sampler`.
        guidance: Classifier-free guidance.
        video_steps: Denoising steps of the video: 1 or more with shared levels, where the actions take them too; 0 or
            more otherwise before the pass that the features are read from.
    """

    action_steps: int | None = None
    action_scheduler: str | None = None
    guidance: float | None = None
    video_steps: int | None = None

    def given(self) -> dict[str, Any]:
        """Name -> value of what is changed."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def apply(self, policy: Policy) -> None:
        """Change how a loaded policy samples.

        Raises:
            UserError: With shared levels the two numbers of steps differ, or the policy has no sampler.
            UserError: A value that the sampler or the features refuse.
        """
        if not self.given():
            return
        if isinstance(policy, DiffusionPolicy) and self.guidance is None and self.video_steps is None:
            changes: dict[str, Any] = {"num_steps": self.action_steps, "scheduler": self.action_scheduler}
            changes = {name: value for name, value in changes.items() if value is not None}
            policy.schedule = NoiseSchedule(**{**policy.schedule.config["init_args"], **changes})
            return
        if not isinstance(policy, VideoPolicy):
            raise UserError(f"{', '.join(self.given())}: only a VideoPolicy samples so, not {type(policy).__name__}.")
        steps, features = self.action_steps, policy.features
        if isinstance(features, SharedLevels):
            steps = self._joint_steps()
        elif self.video_steps is not None:
            assert isinstance(features, FixedLevel | RandomLevel), "the other variants"
            end, standardize = getattr(features, "sigma_end", 1.0), getattr(features, "standardize", False)
            policy.features = FixedLevel(features.sigma, self.video_steps, end, standardize=standardize)
        changes = {"num_steps": steps, "scheduler": self.action_scheduler, "guidance": self.guidance}
        changes = {name: value for name, value in changes.items() if value is not None}
        arguments = config_of(policy.sampler)["init_args"]
        if self.action_scheduler not in (None, policy.sampler.scheduler):
            arguments = {**arguments, "scheduler_options": None}  # another class has other options
        policy.sampler = Sampler(**{**arguments, **changes})

    def _joint_steps(self) -> int | None:
        given = {steps for steps in (self.action_steps, self.video_steps) if steps is not None}
        if len(given) > 1:
            raise UserError(
                f"--action-steps {self.action_steps} and --video-steps {self.video_steps}: this checkpoint denoises "
                "video and actions together (features: SharedLevels); give one of them."
            )
        return next(iter(given), None)
