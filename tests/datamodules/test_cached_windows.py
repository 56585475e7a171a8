"""Latents in place of frames: what is read, and which caches are refused."""

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import ColourJitter, RobosuiteDataModule
from datamodules.cached_windows import latent_shapes, read_texts, write_texts
from datamodules.demos import DemoEntry
from datamodules.frozen_cache import CacheWriter
from files.errors import UserError
from tests.stage_parts import lift_datamodule


def open_writer(folder: Path, data: RobosuiteDataModule, variants: int = 0, **writer: Any) -> CacheWriter:  # noqa: ANN401
    demos = data.demos()
    shapes = latent_shapes(data.cameras, variants, (4, 2, 2), (2, 2, 2))
    key = {"kind": "latents", **data.latent_source(demos), "variants": variants}
    return CacheWriter(folder, key, demos, shapes, **writer)


def fill(folder: Path, data: RobosuiteDataModule, variants: int = 0, *, only: int | None = None, **writer: Any) -> None:  # noqa: ANN401
    """Latents that tell where they are from: 1000 variant + 100 demo + step; + .5 for conditions, + .25 for row 0's."""
    demos = data.demos()
    with open_writer(folder, data, variants, **writer) as cache:
        write_texts(folder, ["lift the cube"], np.full((1, 3), 7, np.float32))
        for number, demo in enumerate(demos[:only]):
            steps = 100 * number + np.arange(demo.length).reshape(-1, 1, 1, 1, 1)
            numbers = steps + 1000 * np.arange(1 + variants).reshape(1, -1, 1, 1, 1)
            for name in cache.shapes:
                more = 0.25 if name == "lead.condition" else 0.5 if name.endswith("condition") else 0
                cache.write(demo, name, 0, numbers + more)
            cache.finish(demo)


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
    draws = [data.train_set[0, seed].latents for seed in range(64)]
    again = data.train_set[0, 5].latents
    assert torch.equal(again.moments, draws[5].moments)
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
    data.train_set.features = SimpleNamespace(window=lambda *_: [torch.zeros(1)])  # type: ignore[assignment]
    assert data.train_set[0].latents is None
    assert data.train_set[0].frames.numel() == 0


def test_an_unfinished_cache_is_refused_and_goes_on(robomimic_file: Callable[..., Path], tmp_path: Path) -> None:
    path = robomimic_file()
    fill(tmp_path / "cache", lift_datamodule(path), only=2)
    with pytest.raises(UserError, match=r"demo_2: not in the latent cache .* goes on where it stopped"):
        cached(path, tmp_path / "cache")
    data = lift_datamodule(path)
    with open_writer(tmp_path / "cache", data) as cache:
        assert [demo.name for demo in cache.missing] == [demo.name for demo in data.demos()[2:]]
        with pytest.raises(UserError, match=r"another run .* fills this folder"):
            open_writer(tmp_path / "cache", data)
    fill(tmp_path / "cache", data)
    assert len(cached(path, tmp_path / "cache").train_set) > 0


def test_a_changed_file_is_refused_until_it_is_encoded_anew(
    robomimic_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = robomimic_file()
    fill(tmp_path / "cache", lift_datamodule(path))
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match="holds nothing of this file as it is now"):
        cached(path, tmp_path / "cache")
    with pytest.raises(UserError, match=r"the file was changed since .* --rebuild"):
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
        ({"image_size": 8}, "image_size: 16 here, 8 wanted"),
        ({"orientation": "flip_vertical"}, "orientation: .upright. here, .flip_vertical. wanted"),
        ({"colour_jitter": ColourJitter(hue=0.1)}, "colour_jitter"),
    ],
)
def test_a_cache_of_other_settings_is_refused_in_one_sentence(
    change: dict[str, Any], said: str, robomimic_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = robomimic_file()
    fill(tmp_path / "cache", lift_datamodule(path), variants=1)
    with pytest.raises(UserError, match=f"made with .*{said}.*--rebuild"):
        cached(path, tmp_path / "cache", **change)
    with pytest.raises(UserError, match=f"made with .*{said}.*--rebuild"):
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
    with pytest.raises(UserError, match=r"no latent cache .*; run `videopolicy cache"):
        cached(path, tmp_path / "cache")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("all of it")
    with pytest.raises(UserError, match="is no cache of ours"):
        fill(tmp_path / "thesis", lift_datamodule(path), rebuild=True)
    assert (tmp_path / "thesis" / "chapter1.tex").exists()


# --- what --rebuild may delete ------------------------------------------------------------------------------------


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "content", ['{"api": "secret"}', "[]", '"key"', '{"format": 1, "cameras": ["a"]}', "", "no json"]
)
def test_a_folder_with_another_programs_key_is_never_deleted(
    content: str, robomimic_file: Callable[..., Path], tmp_path: Path
) -> None:
    path, folder = robomimic_file(), tmp_path / "secrets"
    (folder / "photos").mkdir(parents=True)
    (folder / "key.json").write_text(content)
    (folder / "photos" / "one.npy").write_text("dear")
    before = files_under(folder)
    with pytest.raises(UserError, match=r"secrets.*(no cache of ours|no latent cache)"):
        fill(folder, lift_datamodule(path), rebuild=True)
    assert files_under(folder) == before
    with pytest.raises(UserError, match=r"secrets.*(no cache of ours|no latent cache)"):
        cached(path, folder)


def test_rebuilding_leaves_what_others_put_into_the_cache(robomimic_file: Callable[..., Path], tmp_path: Path) -> None:
    path, folder = robomimic_file(), tmp_path / "cache"
    fill(folder, lift_datamodule(path))
    (folder / "notes.txt").write_text("mine")
    (folder / "plots-0123456789ab").mkdir()
    (folder / "plots-0123456789ab" / "curve.npy").write_text("mine too")
    (folder / "half-0123456789ab").mkdir()
    (folder / "half-0123456789ab" / "agentview.moments.npy").write_text("of a shard that was never finished")
    fill(folder, lift_datamodule(path, image_size=8), rebuild=True)
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "plots-0123456789ab" / "curve.npy").exists()
    assert not (folder / "half-0123456789ab").exists()
    assert len(list(folder.glob("*/shard.json"))) == 1
    cached(path, folder, image_size=8)


def test_a_cache_of_the_format_before_is_refused_and_rebuilt(
    robomimic_file: Callable[..., Path], tmp_path: Path
) -> None:
    path, folder = robomimic_file(), tmp_path / "cache"
    fill(folder, lift_datamodule(path))
    key = json.loads((folder / "key.json").read_text())
    (folder / "key.json").write_text(json.dumps(key | {"format": 1}))
    with pytest.raises(UserError, match=r"made with format: 1 here, 3 wanted; run `videopolicy cache"):
        cached(path, folder)
    fill(folder, lift_datamodule(path), rebuild=True)
    cached(path, folder)


# --- whole or refused ---------------------------------------------------------------------------------------------


def test_instructions_and_embeddings_are_one_file_and_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    write_texts(cache, ["lift it", "drop it"], np.arange(6, dtype=np.float32).reshape(2, 3))
    write_texts(cache, ["turn it", "drop it"], np.arange(6, 12, dtype=np.float32).reshape(2, 3))
    whole = {"lift it": [0, 1, 2], "drop it": [9, 10, 11], "turn it": [6, 7, 8]}
    assert {text: row.tolist() for text, row in read_texts(tmp_path / "cache").items()} == whole

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_texts(cache, ["lift it"], np.zeros((1, 3), np.float32))
    assert {text: row.tolist() for text, row in read_texts(tmp_path / "cache").items()} == whole


@pytest.mark.parametrize("name", ["instructions.npz", "*/agentview.moments.npy", "*/done.json", "*/shard.json"])
def test_a_damaged_part_is_named_in_a_sentence(name: str, robomimic_file: Callable[..., Path], tmp_path: Path) -> None:
    path = robomimic_file()
    fill(tmp_path / "cache", lift_datamodule(path))
    (part,) = (tmp_path / "cache").glob(name)
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(UserError, match=rf"{part.name}: not readable as a part of a cache"):
        cached(path, tmp_path / "cache").train_set[0]


def test_a_file_of_equal_size_and_time_but_other_content_is_another(
    robomimic_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = robomimic_file()
    fill(tmp_path / "cache", lift_datamodule(path))
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    with pytest.raises(UserError, match="holds nothing of this file as it is now"):
        cached(path, tmp_path / "cache")


def test_a_full_disk_and_a_folder_that_cannot_be_made_are_said_in_a_sentence(
    robomimic_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = lift_datamodule(robomimic_file())
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "cache", tmp_path / "file"):
        with pytest.raises(UserError, match=r"file.*(could not be written|no cache of ours)"):
            fill(folder, data)
    fill(tmp_path / "cache", data, only=1)
    original = Path.open

    class Full:
        """A file on a full disk."""

        def __init__(self, path: Path, *arguments: Any, **more: Any) -> None:  # noqa: ANN401
            self.file = original(path, *arguments, **more)

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, _: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401
            return getattr(self.file, name)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *words, **more: (Full if "r+b" in words else original)(*words, **more))
        with pytest.raises(UserError, match=r"moments\.npy: could not be written \(No space left on device\); free"):
            fill(tmp_path / "cache", data)
    fill(tmp_path / "cache", data)
    cached(Path(str(data.paths)), tmp_path / "cache")


def test_more_files_than_may_be_open_at_once_are_read(
    robomimic_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.frozen_cache.MAX_SHARDS_OPEN", 2)
    paths = [robomimic_file(f"demos/{number}.hdf5", seed=number) for number in range(5)]
    for path in paths:
        fill(tmp_path / "cache", lift_datamodule(path))
    data = cached(paths[0].parent, tmp_path / "cache")
    for index in range(0, len(data.train_set), 3):
        _, start = data.train_set.locate(index)
        assert data.train_set[index].latents.moments[0, 0, 0, 0, 0] % 100 == start
        assert len(data.latents._maps) <= 2
