"""No array of the parity folder goes unread: each is named here with the test that compares it."""

import ast
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.golden
ROOT = Path(__file__).resolve().parents[2]
NETWORKS, DATA = "tests/networks/", "tests/datamodules/"
NAMES = "tests/videopolicy/test_published_names.py::"

UNET = NETWORKS + "test_video_unet.py::test_output_and_taps_equal_the_published_network"
FRAMEWISE = NETWORKS + "test_video_unet.py::test_frames_with_their_own_context_equal_the_published_network"
ADAPTER = NETWORKS + "test_adapter.py::test_real_size_output_equals_the_published_network"
ACTION = NETWORKS + "test_action_unet.py::test_real_size_output_equals_the_published_network"
DENOISER = NETWORKS + "test_golden_joint.py::test_joint_denoiser_is_the_published_one"
LOSS = NETWORKS + "test_golden_joint.py::test_loss_and_gradients_are_the_published_ones"
SAMPLER = NETWORKS + "test_golden_joint.py::test_four_guided_euler_steps_are_the_published_ones"
SCALINGS = NETWORKS + "test_edm.py::test_scalings_are_the_published_ones"
LEVELS = NETWORKS + "test_sampling.py::test_levels_are_the_published_ones"
FULL = NETWORKS + "test_golden_full.py::test_real_size_network_is_the_published_one"
VAE = NETWORKS + "test_autoencoders.py::test_real_size_autoencoder_is_the_published_one"
TEXT = NETWORKS + "test_text.py::test_embedding_is_the_published_one"
CONDITIONS = NETWORKS + "test_autoencoders.py::test_conditions_of_a_video_are_the_published_ones"
WINDOWS = DATA + "test_windows.py::test_windows_equal_the_published_dataset"
# The published training configuration names a guider that ramps from 1.0 to 2.5, and never calls it; guidance here is
# one number, as in the published evaluation.
NOT_OFFERED = "not offered"

TEST_BY_ARRAY = {
    "unet_tiny": {
        r"l(16|32)_(timestep|vector|out)": UNET,
        r"l(16|32)_tap\d+(_shape|_is_full)?": UNET,
        r"l16_framewise_context_out": FRAMEWISE,
    },
    "adapter_action_full": {r"adapter_out|mid_layer\w+?(_shape)?": ADAPTER, r"action_out": ACTION},
    "joint_tiny": {
        r"den_(video|action|adapter|sigma)": DENOISER,
        r"c_(in|out|skip|noise)": SCALINGS,
        r"loss_(elements|total)|grad_(names|l2|mean)": LOSS,
        r"grad_total_l2_(video_unet|adapter|action)": LOSS,
        r"sampler_(video|action)|sampler_action_trajectory|sampler_video_trajectory_std": SAMPLER,
        r"sigmas_(4|30)": LEVELS,
        r"train_config_guidance_(video|action)": NOT_OFFERED,
    },
    "joint_full": {r"video|action|adapter|sigma|tap\d+(_shape|_std)?": FULL},
    "vae_full": {r"moments|decoded": VAE},
    "conditioner_tiny": {r"tokens|crossattn": TEXT, r"vector|concat|concat_rows|uc_\w+_absmax": CONDITIONS},
    "dataset_small": {r"action_(min|max)|\w+_(pose|tokens|frame_mean|jpg|cond)": WINDOWS},
}
TEST_BY_TABLE = {
    "full_size_keys": NAMES + "test_the_experiments_networks_are_the_published_ones_name_by_name_and_shape_by_shape",
    "tiny_joint_keys": NETWORKS + "test_golden_joint.py::tiny",
    "unet_to_diffusers": NAMES + "test_names_are_diffusers_own",
    "first_stage_to_diffusers": NAMES + "test_names_are_diffusers_own",
    "parameters": NETWORKS + "test_golden_shapes.py::test_every_network_has_the_published_number_of_parameters",
    "flops": "tests/videopolicy/test_profile.py",
    "full_shapes": NETWORKS + "test_golden_shapes.py::test_every_layer_has_the_published_input_and_output",
}


def test_every_file_of_the_parity_folder_is_registered(parity_dir: Path) -> None:
    assert {path.stem for path in parity_dir.glob("*.npz")} == set(TEST_BY_ARRAY)


@pytest.mark.parametrize("stem", TEST_BY_ARRAY)
def test_every_array_has_one_test_and_every_entry_an_array(stem: str, parity_dir: Path) -> None:
    names = np.load(parity_dir / f"{stem}.npz").files
    tests_by_name = {
        name: [test for pattern, test in TEST_BY_ARRAY[stem].items() if re.fullmatch(pattern, name)] for name in names
    }
    assert {name: tests for name, tests in tests_by_name.items() if len(tests) != 1} == {}
    assert [p for p in TEST_BY_ARRAY[stem] if not any(re.fullmatch(p, name) for name in names)] == []


def test_every_table_of_keys_has_a_test(parity_dir: Path) -> None:
    with gzip.open(parity_dir / "reference_keys.json.gz", "rt") as file:
        assert set(json.load(file)) == set(TEST_BY_TABLE)


@pytest.mark.parametrize("stem", TEST_BY_ARRAY)
def test_the_named_tests_read_the_file(stem: str) -> None:
    for test in set(TEST_BY_ARRAY[stem].values()) - {NOT_OFFERED}:
        assert stem in source_of(test), f"{test} does not mention {stem}"


def test_the_named_tests_of_tables_read_them() -> None:
    for table, test in TEST_BY_TABLE.items():
        assert table in source_of(test), f"{test} does not mention {table}"


def source_of(test: str) -> str:
    """Source of a test, or of a whole file."""
    path, _, name = test.partition("::")
    text = (ROOT / path).read_text()
    if not name:
        return text
    found = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == name]
    assert len(found) == 1, f"no test {test}"
    return ast.get_source_segment(text, found[0]) or ""
