"""LoRA: small trained matrices beside a video U-Net's frozen weights (Hu et al. 2022, arXiv 2106.09685), by peft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from files.errors import UserError

BASE, DOWN, UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"  # peft's names inside a layer


@dataclass(frozen=True)
class LoRA:
    """How a video U-Net is fine-tuned by low-rank adapters: W + alpha / rank * B A, with W frozen.

    A layer is named by the end of its path in the U-Net, whole words: ``to_q`` is every attention's query,
    ``attn2.to_q`` that of cross-attention. The U-Net's own weights keep their type; the adapters are added to linear
    layers only. Whatever leaves a run (a checkpoint's ``state_dict``, the handoff) holds the sum, under the names of an
    ordinary U-Net.

    Args:
        rank: Rows of A and columns of B.
        alpha: Scale of the product times the rank.
        dropout: Of the adapters' input in training.
        targets: Layers that get an adapter.
        whole: Layers, linear or not, whose own weights are trained instead.

    Raises:
        UserError: A number is out of range.
    """

    rank: int = 32
    alpha: float = 32.0
    dropout: float = 0.0
    targets: Sequence[str] = ("to_q", "to_k", "to_v", "to_out.0")
    whole: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0.0 <= self.dropout < 1.0 or not self.targets:
            raise UserError(
                f"lora: rank {self.rank}, alpha {self.alpha}, dropout {self.dropout}, targets {list(self.targets)}; "
                "needed are rank >= 1, alpha > 0, 0 <= dropout < 1 and at least one target."
            )

    @property
    def config(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {**asdict(self), "targets": list(self.targets), "whole": list(self.whole)}

    def install(self, unet: nn.Module) -> None:
        """Freeze a U-Net and put adapters into it; they start at zero, so its output stays what it was.

        Raises:
            UserError: A name fits no layer, or an adapter's layer is not linear.
        """
        from peft import LoraConfig, inject_adapter_in_model  # here, because it takes half a second

        whole = self._named(unet, self.whole, "whole")
        targets = {name: m for name, m in self._named(unet, self.targets, "targets").items() if name not in whole}
        if odd := [name for name, module in targets.items() if not isinstance(module, nn.Linear)]:
            raise UserError(f"lora.targets: {odd[0]} is not a linear layer; name such layers in lora.whole.")
        config = LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=sorted(targets)
        )
        inject_adapter_in_model(config, unet)
        for module in whole.values():
            module.requires_grad_(True)

    def merged(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict with adapters as the ordinary one that computes the same; what it changes lies on the CPU."""
        result = {}
        for name, value in state.items():
            layer, _, kind = name.partition(BASE)
            if kind == "weight":
                product = (state[layer + UP] @ state[layer + DOWN]) * (self.alpha / self.rank)
                result[f"{layer}.weight"] = (value + product.to(value.dtype)).cpu()
            elif not name.endswith((DOWN, UP)):
                result[f"{layer}.{kind}" if kind else name] = value
        return result

    def apart(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `merged` loses: the adapters, and the frozen weights beside them."""
        return {name: value for name, value in state.items() if name.endswith((f"{BASE}weight", DOWN, UP))}

    def separated(self, state: Mapping[str, Tensor], apart: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict with adapters that an ordinary one and what belongs beside it were made from."""
        layers = {name.partition(BASE)[0] for name in apart if BASE in name}
        result = {}
        for name, value in state.items():
            layer, _, kind = name.rpartition(".")
            result[f"{layer}{BASE}{kind}" if layer in layers else name] = value
        return result | dict(apart)

    def _named(self, unet: nn.Module, names: Sequence[str], argument: str) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {}
        for wanted in names:
            here = {n: m for n, m in unet.named_modules() if n == wanted or n.endswith(f".{wanted}")}
            if not here:
                raise UserError(
                    f"lora.{argument}: the video U-Net has no layer {wanted!r}; name the end of a layer's path, for "
                    "instance to_q, attn2.to_v, proj_in or conv_in."
                )
            found |= here
        return found
