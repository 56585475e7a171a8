"""FLOPs and live memory against numbers worked out by hand."""

import pytest
import torch
from torch import Tensor, nn

from videopolicy.profiling.counting import LiveBytes, autocast, flop, flop_by_part, gpu_norms, without_data


def test_a_linear_layer_counts_two_for_each_weight_and_row() -> None:
    layer, x = nn.Linear(7, 11), torch.ones(5, 7)
    assert flop(lambda: layer(x)) == 2 * 5 * 7 * 11


def test_a_convolution_counts_two_for_each_tap_and_output() -> None:
    layer, x = nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.ones(2, 3, 16, 16)
    assert flop(lambda: layer(x)) == 2 * (2 * 8 * 8 * 8) * (3 * 3 * 3)


def test_a_convolution_over_time_and_space_is_counted() -> None:
    layer, x = nn.Conv3d(4, 6, (3, 1, 1), padding=(1, 0, 0)), torch.ones(1, 4, 5, 8, 8)
    assert flop(lambda: layer(x)) == 2 * (6 * 5 * 8 * 8) * (4 * 3)


def test_attention_counts_both_of_its_products_and_five_in_the_backward_pass() -> None:
    q = torch.ones(2, 4, 64, 32, requires_grad=True)
    product = 2 * (2 * 4) * 64 * 64 * 32
    losses: list[Tensor] = []
    run = lambda: losses.append(nn.functional.scaled_dot_product_attention(q, q, q).sum())  # noqa: E731
    assert flop(run) == 2 * product
    assert flop(losses[0].backward) == 5 * product  # the scores once more, then four gradients


def test_a_backward_pass_counts_twice_the_forward() -> None:
    net, x = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8)), torch.ones(4, 8, requires_grad=True)
    losses: list[Tensor] = []
    forward = flop(lambda: losses.append(net(x).sum()))
    assert flop(losses[0].backward) == 2 * forward


def test_parts_are_told_apart_also_where_a_method_calls_their_children() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 8))
            self.second = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.second(self.first[1](self.first[0](x)))  # not through `first` itself
            return result

    net = Two()
    total, parts = flop_by_part(lambda: net(torch.ones(3, 4)), {"a": ["first"], "b": ["second"]})
    assert parts == {"a": 2 * 3 * (4 * 4 + 4 * 8), "b": 2 * 3 * 8 * 2}
    assert total == sum(parts.values())


def test_shapes_alone_count_the_same_and_hold_no_data() -> None:
    with torch.device("meta"):
        net = nn.Linear(1_000_000, 100_000, bias=False)  # 400 GB
    with without_data(net):
        assert flop(lambda: net(torch.ones(2, 1_000_000))) == 2 * 2 * 1_000_000 * 100_000


def test_live_bytes_follow_what_is_kept_for_the_backward_pass() -> None:
    weight = torch.ones(100, 100, requires_grad=True)
    with LiveBytes([weight]) as memory:
        x = torch.ones(50, 100)  # 20,000 bytes
        hidden = (x @ weight).sigmoid()  # the product goes, its sigmoid stays
        assert memory.live == 2 * 20_000
        assert memory.peak == 3 * 20_000
        view = hidden.view(-1)
        assert memory.live == 2 * 20_000
        del x, hidden, view
    assert memory.live == 0


def test_memory_that_autograd_keeps_is_alive() -> None:
    weight = torch.ones(100, 100, requires_grad=True)
    with LiveBytes([weight]) as memory:
        loss = (torch.ones(50, 100) @ weight).square().sum()
        assert memory.live >= 2 * 20_000  # the product's input and its output, which nobody else holds
        loss.backward()
        del loss
        assert memory.live == 100 * 100 * 4  # the gradient


@pytest.mark.parametrize(("dtype", "product"), [(None, torch.float32), (torch.float16, torch.bfloat16)])
def test_a_gpus_autocast_halves_products_and_keeps_norms_exact(dtype: torch.dtype | None, product: torch.dtype) -> None:
    linear, norm = nn.Linear(8, 8), nn.GroupNorm(2, 8)
    with gpu_norms(norm, dtype), autocast(dtype):
        x = linear(torch.ones(4, 8))
        assert x.dtype == product
        assert norm(x).dtype == torch.float32
