"""Squared errors of videos whose answers are known."""

import torch

from networks.picture_errors import MOVED, moving, skill, squared_errors


def videos() -> torch.Tensor:
    """Two windows, two cameras, a current frame and two more of 4x4 pixels; nothing alike."""
    return torch.rand(2, 2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1


def held(true: torch.Tensor) -> torch.Tensor:
    return true[:, :, :1].expand_as(true)


def test_a_perfect_prediction_has_skill_1_and_the_held_picture_skill_0_exactly() -> None:
    true = videos()
    for where in (None, moving(true)):
        for predicted, wanted in ((true, 1.0), (held(true), 0.0)):
            errors = squared_errors(true, predicted, where)
            assert torch.equal(skill(errors.predicted, errors.held), torch.full((2, 2, 2), wanted))


def test_half_of_the_change_has_skill_three_quarters() -> None:
    true = videos()
    errors = squared_errors(true, (true + held(true)) / 2)
    torch.testing.assert_close(skill(errors.predicted, errors.held), torch.full((2, 2, 2), 0.75))


def test_the_current_frame_counts_nowhere() -> None:
    true = videos()
    wrong = true.clone()
    wrong[:, :, 0] = 1.0
    errors = squared_errors(true, wrong)
    assert errors.predicted.shape == (2, 2, 2)  # two future frames
    assert not errors.predicted.any()
    assert errors.size.eq(3 * 4 * 4).all()


def test_a_pixel_moves_in_all_frames_if_one_channel_of_one_future_frame_changes() -> None:
    true = torch.zeros(1, 1, 3, 3, 2, 2)
    true[0, 0, 2, 1, 0, 1] = MOVED + 0.01  # the last frame's green
    true[0, 0, 1, 0, 1, 1] = MOVED  # not more than the threshold
    true[0, 0, 1, 0, 0, 0] = -0.5
    assert moving(true)[0, 0, 0, 0].tolist() == [[True, True], [False, False]]
    errors = squared_errors(true, torch.ones_like(true), moving(true))
    assert errors.size.tolist() == [[[6.0, 6.0]]]  # two pixels of three channels
    assert errors.held.sum().item() == torch.tensor((MOVED + 0.01) ** 2 + 0.25).item()


def test_where_nothing_changes_there_is_no_skill() -> None:
    still = torch.zeros(1, 1, 2, 3, 2, 2)
    errors = squared_errors(still, still)
    assert skill(errors.predicted, errors.held).isnan().all()
