"""MuonAdamW is torch's Muon on matrices and torch's AdamW on all else, and goes on where it was stored."""

import copy

import torch
from torch import Tensor, nn

from lightning_modules.muon import MuonAdamW


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(4, 8, 3), nn.Flatten(), nn.Linear(16, 8), nn.SiLU(), nn.Linear(8, 2))


def train(model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        x = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def weights(model: nn.Module) -> list[Tensor]:
    return [weight.detach() for weight in model.parameters()]


def test_it_is_torchs_two_optimizers_side_by_side() -> None:
    ours, theirs = network(), network()
    train(ours, [MuonAdamW(ours.parameters(), lr=1e-2, weight_decay=0.1)], 3)
    matrices = [w for w in theirs.parameters() if w.ndim == 2]
    others = [w for w in theirs.parameters() if w.ndim != 2]
    muon = torch.optim.Muon(matrices, 0.2, weight_decay=0.1)
    train(theirs, [muon, torch.optim.AdamW(others, 1e-2, (0.9, 0.95), weight_decay=0.1)], 3)
    assert all(map(torch.equal, weights(ours), weights(theirs)))
    assert not torch.equal(weights(ours)[0], weights(network())[0])
    assert not torch.equal(weights(ours)[2], weights(network())[2])


def test_it_goes_on_where_its_state_was_stored() -> None:
    whole = network()
    train(whole, [MuonAdamW(whole.parameters(), lr=1e-2)], 5)
    first = network()
    optimizer = MuonAdamW(first.parameters(), lr=1e-2)
    train(first, [optimizer], 2)
    stored = copy.deepcopy(optimizer.state_dict())
    later = MuonAdamW(first.parameters(), lr=1e-2)
    later.load_state_dict(stored)
    train(first, [later], 3, start=2)
    assert all(map(torch.equal, weights(whole), weights(first)))


def test_groups_keep_their_rate_and_a_schedule_reaches_both() -> None:
    model = network()
    optimizer = MuonAdamW([{"params": list(model[0].parameters()), "lr": 0.5}, {"params": list(model[2].parameters())}])
    assert sorted(group["lr"] for group in optimizer.param_groups) == [1e-3, 0.02, 0.5]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    train(model, [optimizer], 1)
    schedule.step()
    before = copy.deepcopy(weights(model))
    train(model, [optimizer], 1)
    assert all(map(torch.equal, before[:4], weights(model)[:4]))


def test_a_network_without_matrices_is_trained_too() -> None:
    model = nn.Conv1d(1, 1, 1)
    optimizer = MuonAdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 1, 1)).square().mean().backward()
    before = model.weight.clone()
    optimizer.step()
    assert not torch.equal(before, model.weight)
