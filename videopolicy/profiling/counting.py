"""FLOPs and memory of anything that runs, without running it: fake tensors have shapes and no data."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

COUNTED = (
    "Matrix products, convolutions and attention are counted, a multiply and an add as two; normalisation, activations "
    "and other elementwise work are not."
)


def flop(run: Callable[[], Any]) -> int:
    """FLOPs of a call; `COUNTED` says of what."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def flop_by_part(run: Callable[[], Any], parts: Mapping[str, Sequence[str]]) -> tuple[int, dict[str, int]]:
    """FLOPs of a call, in all and of some of its modules.

    Args:
        run: Calls one module (not a method of it), whose submodules are named as `named_modules` does.
        parts: Name of a part -> prefixes of the submodules that it is made of.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    counts = {
        name.partition(".")[2]: sum(per_op.values())
        for name, per_op in counter.get_flop_counts().items()
        if "." in name
    }
    by_part = {}
    for part, prefixes in parts.items():
        inside = [name for name in counts if any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)]
        # a module's count holds its children's, and a method may call children without their parent
        top = [name for name in inside if not any(name.startswith(f"{other}.") for other in inside)]
        by_part[part] = sum(counts[name] for name in top)
    return int(counter.get_total_flops()), by_part


@contextmanager
def without_data(module: nn.Module) -> Iterator[None]:
    """Inside, tensors have shapes only, also those of `module`, which comes from the meta device."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        module.to_empty(device="cpu")
        yield


class LiveBytes(TorchDispatchMode):
    """Follow how much memory the tensors made inside take, and the most they took at once.

    What an operation needs in its inside (workspaces) and what an allocator loses to fragmentation is not seen.

    Args:
        ignored: Tensors that were there before, such as weights.

    Attributes:
        live: Bytes of the tensors that are alive now.
        peak: The most so far, or since `restart_peak`.
    """

    def __init__(self, ignored: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in ignored}

    def restart_peak(self) -> None:
        """Forget the peak of what went before."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._take(leaf.untyped_storage())
        return result

    def _take(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@contextmanager
def gpu_norms(module: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Let a module's normalisations compute and return float32, as a GPU's autocast does and a CPU's does not.

    Around forward and backward pass, because gradient checkpointing runs the forward pass again.

    Args:
        module: Whose normalisations.
        dtype: Half precision of autocast's products; None, without autocast, leaves everything as it is.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, nn.GroupNorm | nn.LayerNorm)]
    hooks = [norm.register_forward_pre_hook(_in_float32) for norm in (norms if dtype is not None else [])]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def autocast(dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast on fake tensors, which live on the CPU; around the forward pass.

    Args:
        dtype: Half precision of the products, which are bfloat16 here: of the same size as float16. None: no autocast.
    """
    return torch.autocast("cpu", torch.bfloat16) if dtype is not None else nullcontext()


def _in_float32(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].float(), *inputs[1:])
