"""Networks compiled for training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

from files.errors import UserError
from lightning_modules import Stage
from networks.inference import compile_networks, to_channels_last


class CompiledNetworks(Callback):
    """Compile a stage's networks while it trains (`torch.compile`): same numbers within rounding, fewer kernels.

    The first step compiles, and a batch of another size compiles anew. Weights, their names, checkpoints and the
    handoff stay what they are. Autoencoder and text tower are not compiled: with a latent cache they do not run.

    Args:
        channels_last: Lay the weights of convolutions out with the channels innermost, as tensor cores want them.
        backend: A backend of `torch.compile`, by name.

    Raises:
        UserError: At set-up under FSDP, whose shares were never tried with a compiler.
    """

    def __init__(self, channels_last: bool = False, backend: str | Callable[..., Any] = "inductor") -> None:
        self.channels_last = channels_last
        self.backend = backend
        self._hidden: list[tuple[nn.Module, str]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what was never tried."""
        if isinstance(trainer.strategy, ModelParallelStrategy):
            raise UserError(
                "CompiledNetworks was never made to work under FSDP: set compile to null, or use trainer.strategy ddp."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hide the networks' methods behind compiled ones."""
        assert isinstance(pl_module, Stage)
        networks = pl_module.networks()
        for network in networks if self.channels_last else ():
            to_channels_last(network)
        self._hidden = compile_networks(networks, "default", self.backend)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show them again."""
        for network, name in self._hidden:
            delattr(network, name)
        self._hidden.clear()
