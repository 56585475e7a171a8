"""Latents in place of frames: what is read, and which caches are refused."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import ColourJitter, DatasetError, RobosuiteDataModule
from datamodules.demos import DemoEntry
from datamodules.latent_writer import LatentCacheWriter
from tests.stage_parts import lift_datamodule

SHAPES = {"moments": (4, 2, 2), "condition": (2, 2, 2)}


def fill(folder: Path, data: RobosuiteDataModule, variants: int = 0, *, only: int | None = None, **writer: Any) -> None:  # noqa: ANN401
    """Latents that tell where they are from: 1000 variant + 100 demo + step; + .5 for conditions, + .25 for row 0's."""
    demos = data.demos()
    cache = LatentCacheWriter(folder, {**data.latent_source(demos), "variants": variants}, **writer)
    cache.write_texts(["lift the cube"], np.full((1, 3), 7, np.float32))
    shard = cache.shard(demos, SHAPES)
    for number, demo in enumerate(demos[:only]):
        for variant in range(1 + variants):
            steps = 1000 * variant + 100 * number + np.arange(demo.length).reshape(-1, 1, 1, 1)
            for camera in data.cameras:
                shard.write(demo, f"{camera}.moments", variant, 0, np.broadcast_to(steps, (demo.length, 4, 2, 2)))
                shard.write(
                    demo, f"{camera}.condition", variant, 0, np.broadcast_to(steps + 0.5, (demo.length, 2, 2, 2))
                )
            shard.write(demo, "lead.condition", variant, 0, np.broadcast_to(steps + 0.25, (demo.length, 2, 2, 2)))
        shard.finish(demo)


def cached(path: Path, folder: Path, **arguments: Any) -> RobosuiteDataModule:  # noqa: ANN401
    data = lift_datamodule(path, latent_cache=str(folder), **arguments)
    data.setup()
    return data


def variants_of(latents: torch.Tensor) -> tuple[int, ...]:
    """Which variant each of (V, c, h, w) is of."""
    return tuple(int(value) // 1000 for value in latents[:, 0, 0, 0])


def number_of(demos: list[DemoEntry], name: str) -> int:
    return [demo.name for demo in demos].index(name)


def test_a_window_holds_the_latents_of_its_frames_and_the_last_one_is_held(
    robomimic_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = robomimic_file()
    fill(tmp_path / "cache", lift_datamodule(path))
    data = cached(path, tmp_path / "cache", num_frames=4)
    demos = data.demos()
    for index in range(len(data.train_set)):
        window, (demo, start) = data.train_set[index], data.train_set.locate(index)
        base = 100 * number_of(demos, demo.name)
        steps = [start + 2 * k for k in range(4)]
        last = [step for step in steps if step < demo.length][-1]
        assert window.frames.numel() == 0
        assert window.latents.moments.shape == (2, 4, 4, 2, 2)
        assert window.latents.moments.dtype == torch.float16
        assert window.latents.moments[1, :, 0, 0, 0].tolist() == [base + min(step, last) for step in steps]
        assert window.latents.condition[:, 0, 0, 0].tolist() == [base + start + 0.25] + [base + start + 0.5] * 2
        assert window.latents.text.tolist() == [7.0] * 3


def test_training_draws_a_jittered_variant_for_each_camera_and_validation_keeps_the_colours(
    robomimic_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = robomimic_file()
    jitter = ColourJitter()
    fill(tmp_path / "cache", lift_datamodule(path, colour_jitter=jitter), variants=2)
    data = cached(path, tmp_path / "cache", colour_jitter=jitter)
    torch.manual_seed(0)
    draws = [data.train_set[0].latents for _ in range(64)]
    assert {variants_of(draw.moments[:, 0]) for draw in draws} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert all(variants_of(draw.condition[1:]) == variants_of(draw.moments[:, 0]) for draw in draws)
    assert all(variants_of(draw.condition[:1]) == variants_of(draw.moments[:1, 0]) for draw in draws)
    assert variants_of(data.val_set[0].latents.moments[:, 0]) == (0, 0)


def test_workers_read_the_cache_too_and_feature_caches_still_see_frames(
    robomimic_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = robomimic_file()
    fill(tmp_path / "cache", lift_datamodule(path))
    data = cached(path, tmp_path / "cache", num_workers=1)
    here = {int(w.index): w for w in (data.train_set[i] for i in range(len(data.train_set)))}
    for batch in data.train_dataloader():
        for row, index in enumerate(batch.windows.tolist()):
            assert batch.latents.moments[row].equal(here[index].latents.moments)
    copied = pickle.loads(pickle.dumps(data.train_set))
    assert copied[3].latents.moments.equal(here[3].latents.moments)
    data.num_workers = 0
    assert next(iter(data.window_loader("train", 2))).has_frames
    data.read_frames = False
    assert data.train_set[0].latents is None
    assert data.train_set[0].frames.numel() == 0


def test_an_unfinished_cache_is_refused_and_goes_on(robomimic_file: Callable[..., Path], tmp_path: Path) -> None:
    path = robomimic_file()
    fill(tmp_path / "cache", lift_datamodule(path), only=2)
    with pytest.raises(DatasetError, match=r"demo_2: not in the latent cache .* goes on where it stopped"):
        cached(path, tmp_path / "cache")
    data = lift_datamodule(path)
    demos = data.demos()
    cache = LatentCacheWriter(tmp_path / "cache", {**data.latent_source(demos), "variants": 0})
    assert cache.shard(demos, SHAPES).done == {"demo_0", "demo_1"}
    fill(tmp_path / "cache", data)
    assert len(cached(path, tmp_path / "cache").train_set) > 0


def test_a_changed_file_is_refused_until_it_is_encoded_anew(
    robomimic_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = robomimic_file()
    fill(tmp_path / "cache", lift_datamodule(path))
    os.utime(path, ns=(1, 1))
    with pytest.raises(DatasetError, match="holds no latents of this file as it is now"):
        cached(path, tmp_path / "cache")
    with pytest.raises(DatasetError, match=r"the file was changed since .* --rebuild"):
        fill(tmp_path / "cache", lift_datamodule(path))
    fill(tmp_path / "cache", lift_datamodule(path), rebuild=True)
    cached(path, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*/shard.json"))) == 1


def test_demos_that_moved_keep_their_cache(robomimic_file: Callable[..., Path], tmp_path: Path) -> None:
    path = robomimic_file()
    fill(tmp_path / "cache", lift_datamodule(path))
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.move(path, tmp_path / "elsewhere" / path.name))
    assert cached(moved, tmp_path / "cache").train_set[0].latents is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cameras": ["robot0_eye_in_hand", "agentview"]}, "cameras"),
        ({"image_size": 8}, "image_size 16 instead of 8"),
        ({"orientation": "flip_vertical"}, "orientation upright instead of flip_vertical"),
        ({"colour_jitter": ColourJitter(hue=0.1)}, "colour_jitter"),
    ],
)
def test_a_cache_of_other_settings_is_refused_in_one_sentence(
    change: dict[str, Any], said: str, robomimic_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = robomimic_file()
    fill(tmp_path / "cache", lift_datamodule(path), variants=1)
    with pytest.raises(DatasetError, match=f"made with .*{said}.*--rebuild"):
        cached(path, tmp_path / "cache", **change)
    with pytest.raises(DatasetError, match=f"made with .*{said}.*--rebuild"):
        fill(tmp_path / "cache", lift_datamodule(path, **change), variants=1)
    fill(tmp_path / "cache", lift_datamodule(path, **change), variants=1, rebuild=True)
    cached(path, tmp_path / "cache", **change)


def test_jitter_without_variants_is_said_to_have_no_effect(robomimic_file: Callable[..., Path], tmp_path: Path) -> None:
    path = robomimic_file()
    fill(tmp_path / "cache", lift_datamodule(path))
    with pytest.warns(UserWarning, match="colour_jitter has no effect"):
        cached(path, tmp_path / "cache", colour_jitter=ColourJitter())


def test_a_missing_or_foreign_folder_is_refused(robomimic_file: Callable[..., Path], tmp_path: Path) -> None:
    path = robomimic_file()
    with pytest.raises(DatasetError, match="no latent cache; fill it with `videopolicy cache"):
        cached(path, tmp_path / "cache")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("all of it")
    with pytest.raises(DatasetError, match="not empty and no latent cache"):
        fill(tmp_path / "thesis", lift_datamodule(path), rebuild=True)
    assert (tmp_path / "thesis" / "chapter1.tex").exists()
