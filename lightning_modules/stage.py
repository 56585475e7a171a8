"""What every stage is: a LightningModule around what it trains, which learns of the data when it is set up."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.plugins import HalfPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from datamodules import Batch, Preprocessing
from datamodules.demo_origin import DemoOrigin, origin_of
from files.differences import differing_keys
from files.errors import UserError
from lightning_modules.sharding import shard
from networks import LoRA, ResidualPreconditioning, VideoModel
from networks.component_config import plain_network
from networks.randomness import stream_seed
from networks.weight_hashes import latent_key
from policies import current_description
from policies.video_inputs import encoded


def adam_1e5(params: Any) -> torch.optim.Optimizer:  # noqa: ANN401 - an optimizer's params are an iterable of many kinds
    """Adam with the paper's constant learning rate."""
    return torch.optim.Adam(params, lr=1e-5)


def require_whole_weights(precision: object) -> None:
    """Refuse to train weights of half precision.

    Raises:
        UserError: The Trainer's precision is ``bf16-true`` or ``16-true``.
    """
    if isinstance(precision, HalfPrecision):
        raise UserError(
            f"trainer.precision is {precision.precision}: weights of eleven or fewer bits would lose steps of 1e-5 to "
            "rounding, and the denoiser's scalings are float32; use bf16-mixed, 16-mixed or 32-true."
        )


class Stage(LightningModule):
    """Base of `VideoStage`, `ActionStage` and `JointStage`.

    Args:
        optimizer: Called with the parameter groups of this stage.
        lr_scheduler: Called with the optimizer; stepped after every optimizer step. None keeps the rate constant.

    Attributes:
        preprocessing: Camera layout, window and action statistics; taken from the datamodule at set-up and from the
            checkpoint on load, so that a checkpoint is all that a rollout needs.
        demo_origin: Which episodes the demos were and how they were rendered; travels in the checkpoint too.
        learns_actions: Whether the demos' actions are used; the datamodule then gives those that have actions
            (``video_only_tasks``, ``action_demos``).
        lora: How the video U-Net is adapted; None trains its own weights.
    """

    learns_actions: ClassVar[bool] = True
    lora: LoRA | None = None
    video: VideoModel  # of the stages that train or read one
    num_predicted: int = 0  # windows that a validation epoch samples, over all ranks

    def __init__(
        self,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None,
    ) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.preprocessing: Preprocessing | None = None
        self.demo_origin: DemoOrigin | None = None
        self._is_adapted = False
        self._num_to_predict = 0
        self._drawn_for = (-1, 0)  # optimizer step and batch within it that torch's global stream was seeded for

    # --- the data this stage was made for -----------------------------------------------------------------------

    def configure_model(self) -> None:
        """Take over the datamodule's preprocessing before a checkpoint is restored or a strategy wraps the model.

        Weights that a callback loads at set-up are there by now, so here the U-Net gets its adapters, and a process
        its shares.
        """
        datamodule = getattr(self.trainer, "datamodule", None)
        if self.preprocessing is None:
            if datamodule is None:
                raise UserError(
                    f"{type(self).__name__} has no data: pass one of the datamodules "
                    "(RobosuiteDataModule, RoboCasaDataModule, LiberoDataModule) to fit, validate or test."
                )
            self.attach(datamodule.preprocessing)
        if self.demo_origin is None:  # also where the handoff has attached the data before
            self.demo_origin = origin_of(datamodule)
        latents = getattr(datamodule, "latents", None)
        if latents is not None:
            if (video := self.video_model) is None:
                raise UserError(
                    f"data.init_args.latent_cache: a {type(self).__name__} has no video model that could read latents; "
                    "set it to null."
                )
            latents.require(latent_key(video.autoencoder, video.text_encoder, video.condition_noise))
        if datamodule is not None:
            datamodule.picture_windows(self.num_predicted)
        require_whole_weights(self.trainer.precision_plugin)
        self.adapt()
        shard(self)

    def adapt(self) -> None:
        """Put the adapters of `lora` into the video U-Net, once."""
        if self.lora is not None and not self._is_adapted:
            assert self.video_model is not None, "only stages with a video model have adapters"
            self.lora.install(self.video_model.unet.core)
            self._is_adapted = True

    def attach(self, preprocessing: Preprocessing) -> None:
        """Remember the data's preprocessing, after building what depends on it."""
        self.preprocessing = preprocessing

    @property
    def video_model(self) -> VideoModel | None:
        """The video model that is trained or read, where there is one."""
        video: VideoModel | None = getattr(self, "video", None)
        return video

    @property
    def data(self) -> Preprocessing:
        """The preprocessing; only valid once attached."""
        assert self.preprocessing is not None, "configure_model or attach comes first"
        return self.preprocessing

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store plain, unpickled descriptions, so that the file loads with ``weights_only=True``."""
        checkpoint["preprocessing"] = self.data.to_dict()
        if self.demo_origin is not None:
            checkpoint["demo_origin"] = self.demo_origin.to_dict()
        checkpoint["stage"] = type(self).__name__
        if self.lora is not None:
            state = checkpoint["state_dict"]
            checkpoint["lora"] = {"config": self.lora.config, "weights": self.lora.apart(state)}
            checkpoint["state_dict"] = self.lora.merged(state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on training with networks, on data, or with adapters that the checkpoint was not made for."""
        if (kind := checkpoint.get("stage", type(self).__name__)) != type(self).__name__:
            raise UserError(
                f"The checkpoint is one of a {kind}, and this run is of a {type(self).__name__}; give a checkpoint of "
                "this stage, or a best.ckpt, from whose weights a run may begin."
            )
        if "preprocessing" not in checkpoint:
            raise UserError(
                "The checkpoint holds weights without a description of the data; convert it again with the experiment: "
                "videopolicy convert -c experiments/robocasa.yaml ...."
            )
        wrong = differing_keys(self.data.to_dict(), checkpoint["preprocessing"])
        if wrong:
            raise UserError(
                "The checkpoint was trained on other data than this run reads: "
                + "; ".join(wrong)
                + ". Use the data settings of the checkpoint or start a new run directory."
            )
        self._require_same_networks(checkpoint)
        self._restore_adapters(checkpoint)

    def _require_same_networks(self, checkpoint: Mapping[str, Any]) -> None:
        """Say which setting differs, where torch would list a thousand shapes or none."""
        policy = checkpoint.get("policy")
        stored = current_description(policy)["init_args"] if policy else {"video": checkpoint.get("network")}
        own = self.network_config()
        pairs = [(plain_network({k: stored[k]}), plain_network({k: own[k]})) for k in own if stored.get(k) is not None]
        if wrong := [entry for found, wanted in pairs for entry in differing_keys(found, wanted)]:
            raise UserError(
                f"The checkpoint holds another network than model.init_args says: {'; '.join(wrong[:10])}. Set them as "
                "they were, or train the other network in another --run_dir."
            )

    def network_config(self) -> dict[str, Any]:
        """Descriptions of the networks whose weights a checkpoint of this stage holds, by name."""
        raise AssertionError("each stage describes its networks")

    def networks(self) -> list[nn.Module]:
        """The networks that are trained, compiled or sharded one by one."""
        raise AssertionError("each stage names its networks")

    def _restore_adapters(self, checkpoint: dict[str, Any]) -> None:
        """Take a checkpoint's `state_dict`, which is an ordinary one, apart again."""
        stored, own = checkpoint.get("lora"), self.lora and self.lora.config
        if wrong := differing_keys({"lora": stored and stored["config"]}, {"lora": own}):
            raise UserError(
                f"The checkpoint was trained with other adapters than model.init_args.lora says: {'; '.join(wrong)}. "
                "Set them as they were, or start a new run directory from the run's best.ckpt (--ckpt_path), which "
                "begins with its weights."
            )
        if self.lora is not None and stored is not None:
            checkpoint["state_dict"] = self.lora.separated(checkpoint["state_dict"], stored["weights"])

    def plain_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of this stage as that of an ordinary one, adapters summed in."""
        return state if self.lora is None else self.lora.merged(state)

    # --- randomness ---------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Begin with the first batch of a step, as checkpoints are written after whole steps."""
        self._drawn_for = (-1, 0)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Name all draws of a training batch.

        Noise levels, noise and dropout come from torch's global stream, which is seeded anew for every batch by the
        run's seed, the optimizer step, the batch within that step and the rank. So ranks and accumulated batches
        differ, and a run that goes on draws what it would have drawn undisturbed, whatever validation drew.
        """
        step, count = self._drawn_for
        self._drawn_for = (self.global_step, count + 1 if step == self.global_step else 0)
        run_seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # `seed_everything`
        torch.manual_seed(stream_seed(run_seed, "training", *self._drawn_for, self.global_rank))

    # --- one batch ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit_preconditioning(self, num_windows: int) -> None:
        """Measure what the preconditioning needs to know of the data, where it has not.

        Windows and draws are named, so every rank measures the same.

        Args:
            num_windows: Training windows to look at, evenly spread.
        """
        assert self.video_model is not None, "only stages with a video model have a preconditioning"
        video, preconditioning = self.video_model, self.video_model.preconditioning
        if not isinstance(preconditioning, ResidualPreconditioning) or preconditioning.fitted:
            return
        windows = self.trainer.datamodule.train_set  # type: ignore[attr-defined]
        every = max(1, len(windows) // num_windows)
        subset = Subset(windows, range(0, len(windows), every))
        for batch in DataLoader(subset, batch_size=32, collate_fn=Batch.collate):
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            if batch.has_frames:
                batch.frames = self.data.to_float(batch.frames)
            latents, conditioning = encoded(video, batch, batch.windows.tolist())
            preconditioning.update(latents, conditioning.anchor)
        preconditioning.finish()

    # --- predictions of a validation epoch ------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Count anew; every rank samples equally many, so that all have the same to log."""
        self._num_to_predict = -(-self.num_predicted // self.trainer.world_size)

    def to_predict(self, batch: Batch) -> Batch | None:
        """The windows of a validation batch that are to be sampled: the first ones, until they are as many as asked."""
        count = min(self._num_to_predict, len(batch))
        self._num_to_predict -= count
        return batch.first(count) if count else None

    # --- optimizers ---------------------------------------------------------------------------------------------

    def trained_modules(self) -> list[nn.Module]:
        """The networks that hold what `parameter_groups` names."""
        wanted = {id(weight) for group in self.parameter_groups() for weight in group["params"]}
        return [n for n in self.networks() if any(id(weight) in wanted for weight in n.parameters())]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups with ``params`` and ``lr_scale``, the factor on the optimizer's own learning rate."""
        raise AssertionError("each stage names what it trains")

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own union is private
        """Give the optimizer what this stage trains, and nothing else."""
        optimizer = self.optimizer(self.parameter_groups())
        for group in optimizer.param_groups:  # more than were given, where an optimizer splits them
            group["lr"] *= group.pop("lr_scale")
        if self.lr_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.lr_scheduler(optimizer), "interval": "step"},
        }

    def log_batch(self, values: Mapping[str, Tensor], batch: Batch, *, train: bool = False) -> None:
        """Log means over a batch; validation values are averaged over the ranks."""
        self.log_dict(dict(values), batch_size=len(batch), prog_bar=train, sync_dist=not train)
