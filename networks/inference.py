"""Choices that make inference faster on a device: half-precision weights, channels-last layout, compilation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from files.errors import UserError

Precision = Literal["float32", "bfloat16", "float16"]
CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
HALF = (torch.bfloat16, torch.float16)


def prepare_for_inference(
    networks: Sequence[nn.Module],
    precision: Precision = "float32",
    channels_last: bool = False,
    compile_mode: CompileMode | None = None,
    backend: str = "inductor",
) -> None:
    """Change the networks that every replan runs, in place; training them is over.

    Args:
        networks: Video U-Net, adapter and action U-Net (`Policy.networks`); what is not among them stays as it is.
        precision: Type of the weights. Scalings, noise and the steps between noise levels stay in float32.
        channels_last: Keep convolution weights, and so feature maps, with the channels innermost.
        compile_mode: A mode of `torch.compile`, compiled at the first replan and again for every new batch size;
            ``reduce-overhead`` replays CUDA graphs on a GPU. None does not compile.
        backend: A backend of `torch.compile`.

    Raises:
        UserError: An unknown precision or mode.
    """
    for name, value, allowed in (("precision", precision, Precision), ("compile", compile_mode, CompileMode)):
        if value is not None and value not in get_args(allowed):
            raise UserError(f"{name} is {value!r}; it must be one of {', '.join(get_args(allowed))}.")
    for module in networks:
        module.to(getattr(torch, precision))
        if channels_last:
            to_channels_last(module)
    if compile_mode is not None:
        compile_networks(networks, compile_mode, backend)


def compile_networks(
    networks: Iterable[nn.Module], mode: CompileMode, backend: str | Callable[..., Any] = "inductor"
) -> list[tuple[nn.Module, str]]:
    """Hide every way into the networks behind a compiled one, in place; weights and their names stay.

    Returns:
        What was hidden, as network and method: ``delattr`` shows it again, for a method of the instance hides the
        class's.
    """
    hidden = [(network, name) for network in networks for name in ("forward", "features") if hasattr(network, name)]
    for network, name in hidden:
        setattr(network, name, compiled(getattr(network, name), mode, backend))
    return hidden


def compiled(
    function: Callable[..., Any], mode: CompileMode, backend: str | Callable[..., Any] = "inductor"
) -> Callable[..., Any]:
    """A compiled function whose results outlive the next call.

    CUDA graphs write each call's results to the same memory, so they are copied out.
    """
    options: dict[str, Any] = {"mode": mode} if backend == "inductor" else {}
    fast = torch.compile(function, backend=backend, dynamic=False, **options)

    def run(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the function takes
        torch.compiler.cudagraph_mark_step_begin()
        result = fast(*args, **kwargs)
        return result if mode == "default" else tree_map_only(Tensor, torch.clone, result)

    return run


def to_channels_last(module: nn.Module) -> None:
    """Lay out the weights of 2-D and 3-D convolutions with the channels innermost; their values stay."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.dim() in layouts:
            parameter.data = parameter.data.to(memory_format=layouts[parameter.dim()])


def as_weights(x: Tensor, module: nn.Module) -> Tensor:
    """A tensor in the type of a module's weights, where those are half-precision; autocast sees to the rest."""
    dtype = next(module.parameters()).dtype
    return x.to(dtype) if dtype in HALF else x
