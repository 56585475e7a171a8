"""The action network: a 1-D U-Net over the action chunk, conditioned by FiLM (Diffusion Policy, Chi et al. 2023)."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from files.errors import UserError

Activation = Literal["SiLU", "Mish"]


class ActionUNet(nn.Module):
    """Denoise a chunk of actions, given a conditioning vector and a noise level.

    Args:
        action_dim: Numbers in one action.
        action_horizon: Actions in a chunk; divisible by 2 for every level but the last.
        cond_dim: Size of the conditioning vector: of video features (`CNNAdapter.cond_dim`) or of observations.
        emb_dim: Size of the noise-level embedding (`VideoUNet.emb_dim`, `StepEmbedding.emb_dim`).
        step_embed_dim: Size to which that embedding is projected.
        widths: Channels of each level; multiples of `num_groups`.
        kernel_size: Actions that one convolution sees; odd.
        num_groups: Groups of each normalisation.
        activation: ``SiLU`` (the paper) or ``Mish`` (Diffusion Policy).
        zero_init: Begin with an output of 0, for the preconditioned mean of a denoiser; False is torch's own start.

    Shape:
        - noisy: (B, A, D), A = action_horizon
        - emb: (B, E)
        - cond: (B, cond_dim)
        - output: (B, A, D)

    Attributes:
        config: The constructor's arguments.

    Raises:
        UserError: Horizon, widths or kernel do not fit one another.
    """

    def __init__(
        self,
        action_dim: int = 7,
        action_horizon: int = 32,
        cond_dim: int = 6720,
        emb_dim: int = 1280,
        step_embed_dim: int = 256,
        widths: Sequence[int] = (256, 512, 1024),
        kernel_size: int = 5,
        num_groups: int = 8,
        activation: Activation = "SiLU",
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        _check_settings(action_horizon, widths, kernel_size, num_groups)
        if activation not in get_args(Activation):
            raise UserError(f"action U-Net: activation is {activation!r}; choose one of {get_args(Activation)}.")
        self.config: dict[str, Any] = {
            "action_dim": action_dim,
            "action_horizon": action_horizon,
            "cond_dim": cond_dim,
            "emb_dim": emb_dim,
            "step_embed_dim": step_embed_dim,
            "widths": list(widths),
            "kernel_size": kernel_size,
            "num_groups": num_groups,
            **({} if activation == "SiLU" else {"activation": activation}),  # descriptions older than these two
            **({} if zero_init else {"zero_init": zero_init}),  # arguments are those of their defaults
        }
        self.action_dim, self.action_horizon, self.cond_dim = action_dim, action_horizon, cond_dim
        film_dim = step_embed_dim + cond_dim

        def block(in_channels: int, out_channels: int) -> FiLMResBlock:
            return FiLMResBlock(in_channels, out_channels, film_dim, kernel_size, num_groups, activation)

        self.step_encoder = nn.Sequential(getattr(nn, activation)(), nn.Linear(emb_dim, step_embed_dim))
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            before = action_dim if level == 0 else widths[level - 1]
            layers = [block(before, width), block(width, width)]
            is_last = level == len(widths) - 1
            self.down.append(nn.ModuleList(layers if is_last else [*layers, nn.Conv1d(width, width, 3, 2, 1)]))
        self.mid = nn.ModuleList([block(widths[-1], widths[-1]) for _ in range(2)])
        self.up = nn.ModuleList()
        for width, before in zip(reversed(widths[:-1]), reversed(widths[1:]), strict=True):
            upsample = nn.ConvTranspose1d(width, width, 4, 2, 1)
            self.up.append(nn.ModuleList([block(2 * before, width), block(width, width), upsample]))
        output = nn.Conv1d(widths[0], action_dim, 1)
        self.final = nn.Sequential(ConvBlock(widths[0], widths[0], kernel_size, num_groups, activation), output)
        if zero_init:
            nn.init.zeros_(output.weight)  # the first prediction is the preconditioned mean, as in the video network
            nn.init.constant_(output.get_parameter("bias"), 0.0)

    def forward(self, noisy: Tensor, emb: Tensor, cond: Tensor) -> Tensor:
        """Return the raw network output for noisy actions; see the class for shapes."""
        self._check_input(noisy, cond)
        film = torch.cat([self.step_encoder(emb), cond], dim=-1)
        x = noisy.transpose(1, 2)  # (B, D, A)
        skips = []
        for level in self.down:
            first, second, *downsample = level.children()
            x = second(first(x, film), film)
            skips.append(x)
            x = downsample[0](x) if downsample else x
        for block in self.mid:
            x = block(x, film)
        for level in self.up:
            first, second, upsample = level.children()
            x = upsample(second(first(torch.cat([x, skips.pop()], dim=1), film), film))
        result: Tensor = self.final(x).transpose(1, 2)
        return result

    def _check_input(self, noisy: Tensor, cond: Tensor) -> None:
        if noisy.shape[1:] != (self.action_horizon, self.action_dim):
            raise UserError(
                f"action U-Net: actions of shape {tuple(noisy.shape[1:])} found, built for "
                f"({self.action_horizon}, {self.action_dim}); set action_horizon and action_dim as in the data."
            )
        if cond.shape[-1] != self.cond_dim:
            raise UserError(
                f"action U-Net: a conditioning vector of size {cond.shape[-1]} found, cond_dim is {self.cond_dim}; "
                "set it to the size of what conditions, such as the adapter's cond_dim."
            )


class ConvBlock(nn.Module):
    """Convolution over time, normalisation, activation."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, num_groups: int, activation: Activation = "SiLU"
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.norm = nn.GroupNorm(num_groups, out_channels)
        self.act = getattr(nn, activation)()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, A) to (B, C', A)."""
        result: Tensor = self.act(self.norm(self.conv(x)))
        return result


class FiLMResBlock(nn.Module):
    """Residual block whose features the condition scales and shifts channel by channel (Perez et al. 2018)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        film_dim: int,
        kernel_size: int,
        num_groups: int,
        activation: Activation = "SiLU",
    ) -> None:
        super().__init__()
        self.first = ConvBlock(in_channels, out_channels, kernel_size, num_groups, activation)
        self.film = nn.Sequential(getattr(nn, activation)(), nn.Linear(film_dim, 2 * out_channels))
        self.second = ConvBlock(out_channels, out_channels, kernel_size, num_groups, activation)
        self.shortcut = nn.Conv1d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        """Map (B, C, A) and the condition (B, film_dim) to (B, C', A)."""
        scale, shift = self.film(film).unsqueeze(-1).chunk(2, dim=1)
        result: Tensor = self.second(scale * self.first(x) + shift) + self.shortcut(x)
        return result


def _check_settings(action_horizon: int, widths: Sequence[int], kernel_size: int, num_groups: int) -> None:
    if action_horizon % (factor := 2 ** (len(widths) - 1)):
        raise UserError(
            f"action U-Net: action_horizon is {action_horizon}, which {len(widths)} levels of widths cannot halve; "
            f"choose a multiple of {factor} or fewer widths."
        )
    if wrong := [width for width in widths if width % num_groups]:
        raise UserError(
            f"action U-Net: widths {wrong} are no multiples of num_groups {num_groups}; change one of the two."
        )
    if kernel_size % 2 == 0:
        raise UserError(f"action U-Net: kernel_size is {kernel_size}; it must be odd to keep the chunk's length.")
