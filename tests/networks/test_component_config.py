import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from files.errors import UserError
from networks import TapShape
from networks.adapter import AdapterStage
from networks.component_config import build, config_of, describe
from networks.noise import LogNormalNoise


def test_description_names_class_and_arguments() -> None:
    config = describe(LogNormalNoise(), {"mean": 1.0, "std": 1.6})
    assert config == {"class_path": "networks.noise.LogNormalNoise", "init_args": {"mean": 1.0, "std": 1.6}}
    assert build(config).config == config


def test_dataclasses_and_sequences_of_them_are_rebuilt() -> None:
    class Holder:
        pass

    arguments = describe(Holder(), {"taps": (TapShape(8, 4, 4),), "stage": AdapterStage(16, 2)})["init_args"]
    assert arguments["taps"][0]["init_args"] == {"channels": 8, "height": 4, "width": 4}
    assert build(arguments["taps"][0]) == TapShape(8, 4, 4)
    assert build(arguments["stage"]) == AdapterStage(16, 2)


def test_plain_arguments_are_completed_with_the_class() -> None:
    class Part:
        config = {"width": 3}  # noqa: RUF012

    assert config_of(Part())["init_args"] == {"width": 3}
    assert config_of(Part())["class_path"].endswith("Part")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"class_path": "networks.noise.Nothing", "init_args": {}}, "cannot be imported"),
        ({"class_path": "LogNormalNoise", "init_args": {}}, "cannot be imported"),
        ({"class_path": "networks.noise.LogNormalNoise", "init_args": {"men": 1.0}}, "refuses its stored arguments"),
        ({"class_path": "os.system", "init_args": {"command": "true"}}, "not built"),
        ({"class_path": "subprocess.Popen", "init_args": {"args": "true"}}, "not built"),
        ({"class_path": "networks.noise.seeded_noise", "init_args": {}}, "not built"),
        ({"class_path": "networks.checkpoints.file.Path", "init_args": {}}, "not built"),
        ({"class_path": "networks.checkpoints.nowhere.Part", "init_args": {}}, "cannot be imported"),
        ({"class_path": "networks.noise.LogNormalNoise"}, "has no init_args"),
        ({"init_args": {}}, "cannot be imported"),
    ],
)
def test_what_is_no_network_is_never_called(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(config)


@pytest.mark.parametrize("module", ["stranger", "strange.deep.part", "networks_of_a_stranger"])
def test_a_strangers_module_is_not_even_imported(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path.joinpath(*module.split("."))
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = tmp_path / "was_run"
    source = f"import torch, pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Net(torch.nn.Module): pass\n"
    path.with_suffix(".py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    described = {"class_path": f"{module}.Net", "init_args": {}}
    holder = {"class_path": "networks.noise.LogNormalNoise", "init_args": {"mean": described, "std": 1.0}}
    for config in (described, holder):
        with pytest.raises(UserError, match=f"importing {module} would run it"):
            build(config)
    assert not mark.exists()
    assert module not in sys.modules
    monkeypatch.setitem(sys.modules, module, importlib.import_module(module))
    assert type(build(described)).__name__ == "Net"  # what the program has imported by itself is trusted


def test_networks_of_torch_and_diffusers_are_built() -> None:
    assert isinstance(
        build({"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 1}}), nn.Linear
    )
    assert isinstance(build({"class_path": "diffusers.AutoencoderKL", "init_args": {}}), nn.Module)
