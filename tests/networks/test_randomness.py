import pytest
import torch

from networks import OpenCLIPTextEncoder, SeededTextEncoder, seeded_noise
from networks.randomness import generators, isolated_stream, stream_seed

STREAMS = ("video", "action", "condition", "posterior")


def test_a_name_is_one_seed_wherever_it_is_asked_for() -> None:
    assert stream_seed(0, "training", 3, 1) == stream_seed(0, "training", 3, 1) < 2**63
    names = [(0, "training", 3, 1), (1, "training", 3, 1), (0, "training", 31), (0, "validation", 3, 1)]
    assert len({stream_seed(*name) for name in names}) == len(names)


def test_small_noise_of_a_seed_is_no_beginning_of_large_noise() -> None:
    """One generator fills in order, so two draws of one seed would agree as far as the shorter one goes."""
    draws = {stream: seeded_noise((64,), [7], stream)[0] for stream in STREAMS}
    for stream, draw in draws.items():
        for other in set(STREAMS) - {stream}:
            assert not torch.isin(draw[:32], draws[other]).any(), (stream, other)


def test_neighbouring_seeds_have_nothing_in_common() -> None:
    """An action's seed was its video's plus one once, and so the next sample's video's."""
    video, action = (seeded_noise((64,), range(20), stream).flatten() for stream in ("video", "action"))
    assert not torch.isin(video, action).any()


def test_generators_are_of_their_seed_alone() -> None:
    first, again = (generators(seeds, "video")[-1].initial_seed() for seeds in ([3, 9], [9]))
    assert first == again != generators([9], "action")[0].initial_seed()


def test_an_isolated_stream_leaves_the_global_one_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with isolated_stream(1):
        inside = torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(torch.rand(1), inside)
        torch.manual_seed(5)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    "build", [SeededTextEncoder, lambda: OpenCLIPTextEncoder("ViT-S-32-alt")], ids=["seeded", "open_clip"]
)
def test_building_a_text_tower_moves_no_global_stream(build: type, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)  # what torch.manual_seed does to the devices
    monkeypatch.setattr(torch, "manual_seed", seeded.append)
    state = torch.get_rng_state()
    first, second = build(), build()
    assert torch.equal(torch.get_rng_state(), state)
    assert not seeded
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
