"""Compiled networks train to the same weights, and are ordinary networks again afterwards."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from callbacks import CompiledNetworks
from files.errors import UserError
from lightning_modules import ShardedStrategy, Stage
from tests.stage_parts import fit, lift_datamodule, quiet_trainer
from tests.window_steps import KINDS, STEPS, stage_of


@pytest.fixture(autouse=True)
def drawn_by_window(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for kind, step in STEPS.items():
        monkeypatch.setattr(kind, "training_step", step)
    yield
    torch.compiler.reset()


def trained(stage: Stage, folder: Path, demos: Path, *callbacks: Callback) -> dict[str, Tensor]:
    trainer = quiet_trainer(folder, 3, *callbacks, limit_val_batches=0)
    torch.manual_seed(0)  # adapter and action U-Net are made when the data is known
    fit(trainer, stage, lift_datamodule(demos, batch_size=2))
    return stage.state_dict()


def networks(stage: Stage) -> list[nn.Module]:
    names = ("adapter", "action_unet")
    return [stage.video.unet, *(getattr(stage, name) for name in names if hasattr(stage, name))]


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "action" else pytest.mark.slow) for kind in KINDS]
)
def test_three_steps_end_at_the_weights_of_plain_ones(
    kind: str, tmp_path: Path, robomimic_file: Callable[..., Path]
) -> None:
    """Torch's tracer, forward and backward, without generated code: that needs no C++ compiler."""
    from torch._dynamo.backends.registry import lookup_backend

    graphs = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return lookup_backend("aot_eager")(graph, inputs)

    demos, stage = robomimic_file(), stage_of(kind)
    start = {name: weight.clone() for name, weight in stage.state_dict().items()}
    wanted = trained(stage_of(kind), tmp_path, demos)
    found = trained(stage, tmp_path, demos, CompiledNetworks(channels_last=True, backend=counting))
    assert graphs
    assert found.keys() == wanted.keys()
    assert any(not torch.equal(found[name], weight) for name, weight in start.items()) or kind == "action"
    for name, weight in wanted.items():
        assert (found[name] - weight).abs().max() <= 1e-3 * max(weight.abs().max(), 0.1), name
    assert not any({"forward", "features"} & vars(network).keys() for network in networks(stage))


def test_shares_are_refused(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, 1, strategy=ShardedStrategy())
    with pytest.raises(UserError, match="FSDP"):
        CompiledNetworks().setup(trainer, stage_of("video"), "fit")
