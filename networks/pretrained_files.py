"""Where pretrained weights lie on disk: what people give is a file, a folder that holds it, or a saved pipeline."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from files.errors import UserError

WEIGHTS = "diffusion_pytorch_model"
VARIANTS = (None, "fp16")  # many pipelines are handed on with their half-precision files alone


def weight_file(path: str, names: Sequence[str], what: str) -> Path:
    """The file at a path, or the one of these names in a folder.

    Raises:
        UserError: The folder has none of them.
    """
    place = Path(path).expanduser()
    if not place.is_dir():
        return place
    for name in names:
        if (place / name).is_file():
            return place / name
    there = ", ".join(sorted(found.name for found in place.iterdir())[:8]) or "nothing"
    raise UserError(f"{what}: {place} is a folder with {there}; it has none of {', '.join(names)}; give a file.")


def model_folder(source: str, what: str) -> str:
    """A folder or hub id that diffusers reads, of either or of the weights' file in such a folder.

    Raises:
        UserError: A single file without its config.json.
    """
    place = Path(source).expanduser()
    if place.is_file():
        if not (place.name.startswith(WEIGHTS) and (place.parent / "config.json").is_file()):
            raise UserError(
                f"{what}: {place} is a single file without a config.json beside it; convert it first (videopolicy "
                "convert --from svd --to native) and give the result with --ckpt_path, or give a folder."
            )
        place = place.parent
    return str(place) if place.exists() else source


def load_any_variant(load: Callable[..., Any], source: str, subfolder: str | None) -> Any:  # noqa: ANN401 - diffusers
    """Load a network of diffusers from its ordinary files, or where there are none from those in half precision.

    Args:
        load: A class's ``from_pretrained``.
        source: Folder or hub id.
        subfolder: Where in it.

    Raises:
        OSError: There are neither.
    """
    errors: list[Exception] = []
    for variant in VARIANTS:
        try:
            return load(source, subfolder=subfolder, variant=variant)
        except (OSError, ValueError) as error:
            errors.append(error)
    raise OSError(str(errors[0])) from errors[0]
