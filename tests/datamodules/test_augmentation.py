import pytest
import torch

from datamodules import ColourJitter


def test_zero_strength_changes_nothing() -> None:
    frames = torch.rand(2, 2, 3, 3, 8, 8) * 2 - 1
    torch.testing.assert_close(ColourJitter(0, 0, 0, 0)(frames, [0, 1]), frames)


def test_all_frames_of_a_clip_share_one_draw_and_clips_differ() -> None:
    """Six clips of the same four equal frames: equal within a clip, different between clips."""
    torch.manual_seed(0)
    frames = (torch.rand(3, 8, 8) * 1.2 - 0.6).expand(3, 2, 4, 3, 8, 8)
    clips = ColourJitter()(frames, [0, 1, 2]).flatten(0, 1)
    assert clips.shape == (6, 4, 3, 8, 8)
    for clip in clips:
        assert torch.equal(clip, clip[:1].expand_as(clip))
    assert len({float(clip.mean()) for clip in clips}) == 6


def test_a_samples_colours_depend_on_its_seed_alone() -> None:
    frames, state = torch.rand(2, 2, 2, 3, 8, 8) * 2 - 1, torch.get_rng_state()
    together = ColourJitter()(frames, [4, 5])
    assert torch.equal(ColourJitter()(frames[1:], [5])[0], together[1])
    assert not torch.equal(ColourJitter()(frames[1:], [6])[0], together[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_values_stay_in_range() -> None:
    frames = torch.rand(1, 1, 2, 3, 8, 8) * 2 - 1
    for seed in range(20):
        jittered = ColourJitter(0.9, 0.9, 0.9, 0.5)(frames, [seed])
        assert jittered.min() >= -1
        assert jittered.max() <= 1


def test_brightness_scales_the_unit_range() -> None:
    """On [0, 1] a factor f maps x to f x (clipped), so every pixel of a clip has one ratio."""
    torch.manual_seed(1)
    frames = torch.rand(1, 1, 2, 3, 8, 8) - 1  # [0, 0.5] on the unit range: no clipping
    jittered = ColourJitter(0.2, 0, 0, 0)(frames, [1])
    ratio = (jittered + 1) / (frames + 1).clamp(min=1e-6)
    assert 0.8 <= float(ratio.median()) <= 1.2
    torch.testing.assert_close(
        ratio[frames > -0.99], ratio.median().expand(int((frames > -0.99).sum())), atol=1e-4, rtol=0
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_jitter_stays_on_the_device() -> None:
    assert ColourJitter()(torch.rand(2, 2, 3, 3, 8, 8, device="cuda"), [0, 1]).device.type == "cuda"
