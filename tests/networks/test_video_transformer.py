"""The transformer is diffusers' own with positions added, its taps are its blocks, and it fits the video model."""

import pytest
import torch
from torch import Tensor

from files.errors import UserError
from networks import TapShape, VideoTransformer, build, config_of

ROWS, SIZE = 5, 4


def transformer(**changes: int) -> VideoTransformer:
    torch.manual_seed(0)
    settings = {"width": 24, "num_layers": 3, "num_attention_heads": 2, "cross_attention_dim": 8, "max_rows": 8}
    network = VideoTransformer(in_channels=6, out_channels=3, **{**settings, **changes})
    for weight in network.parameters():  # the output starts at zero, which would compare nothing
        torch.nn.init.normal_(weight, std=0.2)
    return network.eval()


def inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, ROWS, 6, SIZE, SIZE, generator=generator)
    text = torch.randn(batch, 1, 1, 8, generator=generator).expand(-1, ROWS, -1, -1)
    return x, torch.linspace(-1.0, 1.5, batch), text, torch.zeros(batch, 3)


def test_without_positions_it_is_diffusers_transformer() -> None:
    """Patches in, blocks, patches out: the same numbers as diffusers' own forward pass."""
    network = transformer()
    for positions in network.positions:
        torch.nn.init.zeros_(positions)
    x, level, text, ids = inputs()
    with torch.no_grad():
        theirs = network.core(x.transpose(1, 2), 1000.0 * level, text[:, 0], return_dict=False)[0].transpose(1, 2)
        ours = network(x, level, text, ids).sample
    assert ours.shape == (2, ROWS, 3, SIZE, SIZE)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert ours.std() > 0.1


def test_positions_tell_rows_apart_that_hold_the_same_picture() -> None:
    network = transformer()
    x, level, text, ids = inputs()
    x = x[:, :1, :, :1, :1].expand(-1, ROWS, -1, SIZE, SIZE)
    sample = network(x, level, text, ids).sample
    assert (sample[:, 0] - sample[:, 1]).abs().max() > 0.01


def test_a_tap_is_a_block_and_the_pass_stops_after_the_last() -> None:
    network = transformer()
    x, level, text, ids = inputs()
    with torch.no_grad():
        whole = network(x, level, text, ids, taps=(0, 1))
        ran = []
        handles = [block.register_forward_hook(lambda *_: ran.append(1)) for block in network.core.blocks]
        found, emb = network.features(x, level, text, ids, taps=(0, 1))
        for handle in handles:
            handle.remove()
    assert len(ran) == 2
    assert set(found) == {0, 1}
    assert all(torch.equal(found[tap], whole.taps[tap]) for tap in found)
    assert torch.equal(emb, network.time_embedding(level))
    shapes = network.tap_shapes(SIZE)
    assert shapes == dict.fromkeys(range(3), TapShape(24, 2, 2))
    assert found[1].shape == (2, ROWS, 24, 2, 2)


def test_a_token_of_a_tap_lies_where_its_patch_lies() -> None:
    """The first block without attention, text or feed-forward leaves every patch where it was."""
    network = transformer()
    block = network.core.blocks[0]
    for layer in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x, level, text, ids = inputs()
    moved = x.clone()
    moved[0, 3, :, 2:, :2] += 1.0  # row 3, lower left patch
    with torch.no_grad():
        before, after = (network.features(some, level, text, ids, (0,))[0][0] for some in (x, moved))
    changed = (before - after).abs().sum(dim=2).nonzero().tolist()
    assert changed == [[0, 3, 1, 0]]


def test_the_text_matters() -> None:
    network = transformer()
    x, level, text, ids = inputs()
    assert not torch.allclose(network(x, level, text, ids).sample, network(x, level, -text, ids).sample)


def test_recomputing_blocks_changes_no_gradient() -> None:
    gradients = []
    for gradient_checkpointing in (False, True):
        network = transformer()
        network.gradient_checkpointing = gradient_checkpointing
        network(*inputs()).sample.square().mean().backward()
        gradients.append(network.core.blocks[0].attn1.to_q.weight.grad)
    assert torch.equal(*gradients)


def test_its_description_builds_it_again() -> None:
    network = transformer()
    again = build(config_of(network))
    again.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(network(*inputs()).sample, again.eval()(*inputs()).sample)


def test_a_fresh_network_predicts_nothing_yet() -> None:
    network = VideoTransformer(6, 3, width=24, num_layers=1, num_attention_heads=2, cross_attention_dim=8)
    assert network(*inputs()).sample.abs().max() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"width": 30, "num_attention_heads": 4}, "even number"), ({"max_rows": 4}, "at most 4 rows")],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        transformer(**changes)(*inputs())


def test_latents_that_no_patch_divides_are_refused() -> None:
    x, *others = inputs()
    with pytest.raises(UserError, match="multiples of patch_size 2"):
        transformer()(x[..., :3], *others)


def test_an_unknown_tap_is_refused() -> None:
    with pytest.raises(UserError, match=r"no tap \[3\]; VideoTransformer has taps 0 to 2"):
        transformer().features(*inputs(), taps=(3,))
