"""Paths that are missing, of another kind, oddly named or unwritable: one sentence and status 2, or it works."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from networks import SVDAutoencoder
from tests.videopolicy.report_parts import evaluation
from videopolicy.main import main

from .conftest import ROOT
from .test_cache import SHAPE
from .test_converted_runs import small_networks

LIFT = str(ROOT / "experiments" / "lift.yaml")
ROBOCASA = str(ROOT / "experiments" / "robocasa.yaml")
CONVERT = ["convert", "--from", "reference", "--to", "native", "--input", "weights.ckpt", "--model.video"]
CONVERT += [str(ROOT / "experiments" / "networks" / "svd.yaml")]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, robocasa_file: Callable[..., Path]) -> Path:
    """A folder with one of everything, where commands run."""
    (tmp_path / "folder").mkdir()
    for ending in ("yaml", "ckpt", "json"):
        (tmp_path / f"folder.{ending}").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "weights.ckpt").write_bytes(b"PK\x03\x04 cut")
    overlay = small_networks(robocasa_file())
    SVDAutoencoder(**SHAPE).vae.save_pretrained(tmp_path / "vae")  # type: ignore[arg-type]
    arguments = {**SHAPE, "pretrained": str(tmp_path / "vae")}
    autoencoder = {"class_path": "networks.SVDAutoencoder", "init_args": arguments}
    overlay["model"]["init_args"]["video"]["init_args"]["autoencoder"] = autoencoder
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(overlay))
    evaluation(tmp_path / "results", {"Lift": "sf"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["profile", "-c", "gone.yaml"], "gone.yaml: no such file"),
        (["profile", "-c", "folder.yaml"], "folder.yaml: is a folder"),
        (["profile", "-c", LIFT, "--meta", "--json", "folder.json"], "folder.json: cannot be written"),
        (["profile", "-c", LIFT, "--meta", "--json", "gone/x.json"], "gone/x.json: cannot be written"),
        (["cache", "-c", "folder.yaml"], "folder.yaml: is a folder"),
        (["cache", "-c", ROBOCASA, "-c", "tiny.yaml", "--device", "tpu9"], "--device tpu9: not on this machine"),
        (["cache", "-c", ROBOCASA, "-c", "tiny.yaml", "--output", "file"], "file"),
        (["cache", "-c", ROBOCASA, "-c", "tiny.yaml", "--output", "file/x"], "file/x"),
        (["cache", "-c", ROBOCASA, "-c", "tiny.yaml", "--output", "/proc/gone/x"], "/proc/gone/x"),
        (["cache", "-c", ROBOCASA, "-c", "tiny.yaml", "--", "--data.paths", "gone"], "gone: no such file"),
        ([*CONVERT, "--output", "new.ckpt"], "weights.ckpt: damaged"),
        ([*CONVERT, "--output", "folder.ckpt", "--force"], "folder.ckpt: is a folder"),
        ([*CONVERT, "--output", "file/new.ckpt"], "file/new.ckpt: cannot be written"),
        ([*CONVERT, "--output", "/proc/gone/new.ckpt"], "/proc/gone/new.ckpt: cannot be written"),
        ([*CONVERT, "--input", "folder.ckpt", "--output", "new.ckpt"], "folder.ckpt is a folder"),
        ([*CONVERT, "--input", "gone.ckpt", "--output", "new.ckpt"], "gone.ckpt: no such file"),
        ([*CONVERT, "--output", "new.ckpt", "-c", "gone.yaml"], "gone.yaml: no such file"),
        (["report", "gone"], "gone: no such file or folder"),
        (["report", "folder"], "folder: neither an evaluation nor a run directory"),
        (["report", "file"], "file: neither a results file nor a folder"),
        (["report", "results", "--output", "folder.json"], "folder.json: could not be written"),
        (["report", "results", "--output", "file/x.html"], "file/x.html: could not be written"),
        (["report", "results", "--against", "gone"], "gone: no such file or folder"),
        (["report", "results", "--max-mb", "nan"], "--max-mb nan: must be 0 or more"),
        (["report", "results", "--max-mb", "-1"], "--max-mb -1: must be 0 or more"),
        (["compare", "results", "gone"], "gone: no such results"),
        (["compare", "results", "folder"], "folder/results.jsonl: no such results"),
        (["compare", "results", "file"], "file: holds no finished episode"),
        (["simulators", "check", "robosuite", "--python", "gone"], "cannot start its Python 'gone'"),
        (["simulators", "check", "robosuite", "--python", "folder"], "cannot start its Python 'folder'"),
        (["collect", "--simulator", "robosuite", "--task", "Lift", "--episodes", "1", "--output", "file/x.hdf5"],
         "file/x.hdf5: cannot be written"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_or_written_is_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert f"videopolicy {words[0]}: " in error.splitlines()[-1]


def test_odd_names_are_printed_as_they_are(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The terminal's library reads [..] as markup: swallowed at best, an error at worst."""
    folder = place / "[bold]" / "a [red]b[/red] c" / "#1 ü" / "ö [/]" / "[0] [1]"
    folder.parent.mkdir(parents=True)
    results = [str(evaluation(folder, {"Lift": "sf"})), str(evaluation(folder.with_name("other [b]"), {"Lift": "fs"}))]
    experiment = folder / "tiny [i].yaml"
    experiment.write_bytes((place / "tiny.yaml").read_bytes())
    config = ["-c", ROBOCASA, "-c", str(experiment)]
    page, profile, latents = folder / "page [x].html", folder / "[p].json", folder / "cache [x]"
    for words, printed in (
        (["compare", *results], [f"A: {results[0]}", f"B: {results[1]}"]),
        (["report", *results[:1], "--against", results[1], "--output", str(page)], [str(page)]),
        (["profile", *config, "--meta", "--stage", "video", "--json", str(profile)], [f"written: {profile}"]),
        (["cache", *config, "--variants", "0", "--output", str(latents)], [f"latent_cache to {latents}"]),
    ):  # fmt: skip
        assert main(words) == 0, words
        said = capsys.readouterr().out.replace("\n", "")
        for text in printed:
            assert text.replace(" ", "") in said.replace(" ", "")
    assert list(latents.iterdir())
