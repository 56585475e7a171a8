import pytest
import torch

from files.errors import UserError
from networks.conditioning import Conditioning


def ones(num_samples: int = 2, num_rows: int = 9) -> Conditioning:
    latents = torch.ones(num_samples, num_rows, 4, 2, 2)
    return Conditioning(latents, torch.ones(num_samples, num_rows, 1, 6), latents)


def test_unconditional_is_zero_in_every_row_but_keeps_its_anchor() -> None:
    unconditional = ones().unconditional()
    assert not unconditional.latents.any()
    assert not unconditional.context.any()
    assert unconditional.anchor.all()


def test_doubled_batch_holds_conditional_then_unconditional() -> None:
    both = ones(2).with_unconditional()
    assert len(both) == 4
    assert both.latents[:2].all()
    assert not both.latents[2:].any()
    assert both.context[:2].all()
    assert not both.context[2:].any()


def test_dropout_is_drawn_for_every_frame_and_separately_for_text_and_latents() -> None:
    dropped = ones(1000, 25).dropout(0.1)
    latents, text = dropped.latents[:, :, 0, 0, 0] == 0, dropped.context[:, :, 0, 0] == 0
    for gone in (latents, text):
        assert abs(gone.float().mean() - 0.1) < 0.01
        frames = gone.float() - gone.float().mean()
        covariance = frames.T @ frames / 1000
        off_diagonal = covariance - covariance.diag().diag()
        assert off_diagonal.abs().max() < 0.04  # a frame says nothing about another
    assert abs((latents & text).float().mean() - 0.01) < 0.004
    assert torch.equal(dropped.latents.flatten(2).amax(-1), dropped.latents.flatten(2).amin(-1))  # whole frames
    assert dropped.anchor.all()


def test_dropout_by_sample_makes_the_unconditional_case_and_nothing_between() -> None:
    dropped = ones(2000, 25).dropout(0.1, scope="sample")
    gone = dropped.latents[:, 0, 0, 0, 0] == 0
    assert abs(gone.float().mean() - 0.1) < 0.02
    unconditional = ones(2000, 25).unconditional()
    assert torch.equal(dropped.latents[gone], unconditional.latents[gone])
    assert torch.equal(dropped.context[gone], unconditional.context[gone])
    assert dropped.latents[~gone].all()
    assert dropped.context[~gone].all()
    assert dropped.anchor.all()
    with pytest.raises(UserError, match="scope is 'row'"):
        ones().dropout(0.1, scope="row")  # type: ignore[arg-type]


def test_dropout_of_zero_and_one() -> None:
    assert ones().dropout(0.0).latents.all()
    assert not ones().dropout(1.0).context.any()


def test_slices_take_samples() -> None:
    assert len(ones(3)[:2]) == 2
    assert ones(3)[1:].context.shape == (2, 9, 1, 6)
