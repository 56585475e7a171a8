"""Stage 2 keeps nothing of the frozen video network for the backward pass, and does not run what no tap needs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules import Batch, RobosuiteDataModule
from lightning_modules import ActionStage
from networks import VideoUNet
from policies import FeatureLevels, FixedLevel, SharedLevels
from tests.stage_parts import tiny_action_stage, tiny_video_model

TAPS = (2, 5)  # of 8: the output blocks 6 and 7 are not needed


def stage_and_batch(data: RobosuiteDataModule, **arguments: Any) -> tuple[ActionStage, Batch]:  # noqa: ANN401
    stage = tiny_action_stage(tiny_video_model(residual=False), taps=TAPS, **arguments).train()
    stage.attach(data.preprocessing)
    stage.log_dict = lambda *_, **__: None  # type: ignore[method-assign] # there is no Trainer
    batch = next(iter(data.window_loader("train", batch_size=4)))
    batch.frames = data.preprocessing.to_float(batch.frames)
    return stage, batch


def saved_in_step(stage: ActionStage, batch: Batch) -> tuple[dict[int, int], Tensor]:
    """Bytes kept for the backward pass by where they lie in memory, and the loss that keeps them."""
    size_by_place: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        size_by_place[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = stage.training_step(batch, 0)
    return size_by_place, loss


def outputs_of(network: VideoUNet) -> tuple[list[Tensor], Any]:
    """A list that fills with all feature maps inside a network, and how to stop it."""
    made: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:  # noqa: ANN401 - a layer's own
        made.extend(part for part in (output if isinstance(output, tuple) else (output,)) if isinstance(part, Tensor))

    unet = network.unet  # its embedding of the noise level is left out: adapter and action network read that too
    parts: list[nn.Module] = [unet.conv_in, *unet.down_blocks, unet.mid_block, *unet.up_blocks]
    handles = [layer.register_forward_hook(keep) for part in parts for layer in part.modules()]
    return made, lambda: [handle.remove() for handle in handles]


@pytest.mark.parametrize("levels", [SharedLevels, FixedLevel])
def test_nothing_that_is_kept_for_the_backward_pass_belongs_to_the_video_network(
    lift_data: RobosuiteDataModule, levels: type[FeatureLevels]
) -> None:
    stage, batch = stage_and_batch(lift_data, features=levels())
    made, stop = outputs_of(stage.video.unet)
    handed_over: list[Tensor] = []
    stage.policy.adapter.register_forward_pre_hook(lambda _, given: handed_over.extend(given[0]))
    size_by_place, loss = saved_in_step(stage, batch)
    stop()
    weights = {weight.untyped_storage().data_ptr() for weight in stage.video.parameters()}
    inside, features = ({tensor.untyped_storage().data_ptr() for tensor in part} for part in (made, handed_over))
    assert len(made) > 50
    assert size_by_place
    assert not weights & set(size_by_place)
    assert len(features) == len(TAPS)
    assert inside & set(size_by_place) <= features  # which the adapter reads
    assert not any(tensor.requires_grad for tensor in made)
    loss.backward()
    assert all(weight.grad is None for weight in stage.video.parameters())


def test_a_graph_over_the_video_network_would_be_noticed(lift_data: RobosuiteDataModule) -> None:
    """The bytes that are kept grow several times when the same features are computed with gradients."""
    stage, batch = stage_and_batch(lift_data, features=SharedLevels())
    ours = sum(saved_in_step(stage, batch)[0].values())
    stage.video.unet.requires_grad_(True)
    plain = stage.video.features

    def recorded(*args: Any) -> Any:  # noqa: ANN401 - the method's own
        with torch.enable_grad():
            return plain(*args)

    stage.video.features = recorded  # type: ignore[method-assign]
    assert sum(saved_in_step(stage, batch)[0].values()) > 3 * ours


def test_layers_after_the_last_tap_do_not_run(lift_data: RobosuiteDataModule) -> None:
    stage, batch = stage_and_batch(lift_data, features=SharedLevels())
    unet = stage.video.unet.unet
    ran: set[str] = set()
    for name, layer in unet.named_modules():
        layer.register_forward_hook(lambda *_, name=name: ran.add(name))
    stage.training_step(batch, 0)
    blocks = [f"up_blocks.{block}.resnets.{layer}" for block in (0, 1) for layer in (0, 1)]
    runs = [name in ran for name in blocks]
    assert runs == [True, True, False, False]  # positions 4 to 7; the last tap is 5
    assert not {"conv_norm_out", "conv_out"} & ran
