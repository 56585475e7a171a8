"""The whole 1.5 B network at its real size against joint_full.npz (`make test-full`)."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from networks.video_unet import VideoUNet
from tests.goldens import TAPS, Arrays, Fill, Unit, check, joint_model, load_by_rule

pytestmark = [pytest.mark.golden, pytest.mark.full, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Every core, unlike the small tests of this folder."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


def test_real_size_network_is_the_published_one(
    unit: Unit,
    parity_arrays: Arrays,
    reference_keys: dict[str, Any],
    fill_by_rule: Fill,
    sampled: Callable[[Tensor, int], Tensor],
) -> None:
    """About 10 GiB and two minutes on two idle cores; the raw network, without EDM scalings. The golden is float32."""
    arrays, prefix = parity_arrays("joint_full"), "model.diffusion_model."
    model = joint_model(VideoUNet(zero_init=False), 1024)
    full = reference_keys["full_size_keys"]
    shapes = {key.removeprefix(prefix): shape for key, shape in full.items() if key.startswith(prefix)}
    load_by_rule(model, shapes, fill_by_rule)
    context = unit("full/context", (1, 1, 1024))[:, None].expand(-1, 25, -1, -1)
    c_noise = arrays["sigma"].log() / 4
    ids = torch.tensor([[6.0, 100.0, 0.02]])
    with torch.no_grad():
        output = model.video.unet(unit("full/x", (25, 8, 32, 32))[None], c_noise, context, ids, taps=TAPS)
        features = [model.video.views(output.taps[tap]) for tap in reversed(TAPS)]
        adapted = model.adapter.forward_map(features, output.emb)
        action = model.action_unet(unit("full/action", (32, 7))[None], output.emb, adapted.flatten(1))
    check("joint_full video", output.sample[0], arrays["video"], 1e-4)
    for tap in TAPS:
        feature = output.taps[tap][0]
        assert list(feature.shape) == arrays[f"tap{tap}_shape"].tolist()
        check(f"joint_full tap{tap}", sampled(feature, 2048), arrays[f"tap{tap}"], 3e-4)
        check(f"joint_full tap{tap}_std", feature.std(), arrays[f"tap{tap}_std"], 1e-4)
    check("joint_full adapter", adapted, arrays["adapter"], 2e-3)
    check("joint_full action", action[0], arrays["action"], 3e-4)
