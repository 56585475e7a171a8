"""What README.md and docs/ print as commands, and the small parts that they are run against.

A command runs as it is printed, in a folder that has what it names: experiments with tiny networks under their own
names, generated demos, tiny training runs. The tables below say where each input comes from and what is appended to
make a long command short. A command that they cannot place fails its test.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from networks import SVDAutoencoder, build
from tests.conftest import write_demos
from tests.reference_parts import first_stage_only
from tests.test_docs import yaml_files
from tests.videopolicy.conftest import COUNTING, ROOT, tiny_overlay
from tests.videopolicy.test_converted_runs import small_networks
from videopolicy.conversion.names import PREFIX_BY_PART
from videopolicy.conversion.plan import plan, published_table
from videopolicy.conversion.source import Source
from videopolicy.experiment.skeleton import skeleton

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {"videopolicy": "videopolicy.main", "lightning": "videopolicy.lightning_cli"}
EXPERIMENTS = ("lift", "libero10", "robocasa", "robocasa_joint")
LAST = "action/checkpoints/last.ckpt"

# --- the tables -------------------------------------------------------------------------------------------------------

PRINTED_WITH_GAPS = {
    "lightning fit -c FILE [-c FILE ...] [--stage video|action] [--run_dir DIR] [--handoff DIR] [--key value ...] "
    "[--print_config]": "lightning fit -c experiments/lift.yaml --stage video --run_dir runs/some --print_config",
    "videopolicy profile -c FILE --json FILE": "videopolicy profile -c experiments/lift.yaml --json profile.json",
    "videopolicy evaluate --output DIR": "videopolicy evaluate --output results/some",
    "videopolicy simulators check NAME": "videopolicy simulators check robosuite",
    "videopolicy collect --cameras ...": "videopolicy collect --cameras agentview frontview --simulator robosuite "
    "--task Lift --episodes 1 --output demos/new.hdf5",
}
"""A command with places to fill in, or the part of one -> the whole."""

NOT_RUN = {
    "make setup": "installs packages",
    "make sim-libero": "installs packages",
    "make sim-robosuite15": "installs packages",
    "make sim-robocasa365": "installs packages",
    "make sim-metaworld": "installs packages",
    "make demo": "needs Meta-World; tests/videopolicy/test_demo.py runs the command on another simulator",
    "videopolicy demo --seed 1 --run-dir runs/demo_seed1": "needs Meta-World, as make demo",
    "make sim-robocasa": "installs packages and downloads 5 GB of assets",
    "make test": "these are its tests",
    "make test-slow": "these are its tests",
    "make test-docs": "these are its tests",
    "make test-full": "takes 10 GiB: tests of its own",
    "make test-gpu": "needs a GPU",
    "make tensorboard": "serves until it is stopped",
    'python -m pytest -m "golden and not full" -rP': "these are its tests",
}
"""Command -> why it is not run here."""

REFUSED = {
    "videopolicy simulators check robocasa": "RoboCasa v0.2 is not installed",
    "PYTHONPATH=tests/simulators videopolicy simulators check small_kitchen:SmallKitchenSimulator --suite robocasa365 "
    "--task OpenDrawer --cameras robot0_agentview_left,robot0_agentview_right,robot0_eye_in_hand "
    "--python .venvs/robocasa365/bin/python": "`make sim-robocasa365` makes it",
    "videopolicy evaluate --checkpoint runs/robocasa/action/checkpoints/last.ckpt --protocol robocasa24_992 "
    "--workers 4": "`make sim-robocasa` makes it",
    "lightning fit -c experiments/robocasa.yaml -c experiments/ablations/adam_8bit.yaml --trainer "
    "experiments/trainer/gpu1_accumulate.yaml --run_dir runs/robocasa_adam_8bit": "bitsandbytes",
}
"""Command that needs what is seldom there (RoboCasa's assets, an extra) -> a word of its one sentence."""

SHORT = {
    "videopolicy collect": "--episodes 2 --workers 1 --max-steps 60",
    "videopolicy evaluate": "--tasks 0 --episodes 1 --max-steps 8 --execute-steps 2 --workers 1 --videos 1",
    "videopolicy variation": "--tasks 0 --episodes 1 --max-steps 8 --execute-steps 2 --workers 1 --videos 0 "
    "--levels 0,1",
    "videopolicy video-quality": "--steps 1,2 --demos 1 --windows 1",
    "videopolicy simulators check": "--image-size 32",
    "videopolicy simulators check libero --suite all": "--image-size 32 --suite libero_goal",
    "videopolicy cache": "-c tiny_cache.yaml",
    "lightning fit -c experiments/robocasa.yaml --data.latent_cache": "-c tiny_cache.yaml",
    "lightning fit -c experiments/lift.yaml --data.action_demos": "--data.action_demos 1",
    "lightning fit -c experiments/lift.yaml -c experiments/baselines/diffusion_policy_small.yaml": "--data.batch_size "
    "2 --trainer.max_steps 2 --trainer.val_check_interval 2 --model.lr_scheduler.warm_up_steps 1 "
    "--rollout.num_episodes 1",
    "videopolicy study": "--dry-run",
    "lightning fit -c experiments/robocasa.yaml --stages.action.trainer.max_steps": "--trainer.max_steps 3",
    "OMP_NUM_THREADS=1 python benchmarks/replan.py --size small": "--steps 2 --turns 1 --overlay tiny_lift.yaml",
    "python benchmarks/replan.py --size full": "--steps 2 --turns 1 --device cpu --overlay tiny_robocasa.yaml",
    "OMP_NUM_THREADS=1 python benchmarks/train_step.py --size small": "--steps 1 --turns 1 --batch-size 1 "
    "--overlay tiny_lift.yaml",
    "python benchmarks/train_step.py --size full": "--batch-size 1 --steps 1 --turns 1 --device cpu "
    "--overlay tiny_robocasa.yaml",
    "python benchmarks/rollout.py": "--episodes 1 --turns 1 --max-steps 8 --image-size 32 --workers 1",
    "python -m benchmarks.loader": "--size 32 --demos 2 --steps 33 --samples 2 --turns 1",
    "make train-video": "EPISODES=5 WORKERS=1",
    "make train-action": "EPISODES=5 WORKERS=1 ARGS='--trainer.max_steps 3'",
    "make evaluate": "ARGS='--tasks 0 --episodes 1 --max-steps 8 --workers 1'",
}
"""Start of a command -> what is appended to it; the last value of an option counts, and the longest start."""

BEFORE = {
    "make train-action EXPERIMENT=robocasa": "make train-video EXPERIMENT=robocasa",
    "make train-action": "make train-video",
}
"""Start of a command -> the one that the page has run before it."""

UNREAD = ("--output", "--run_dir", "--run-dir", "--contact-sheet", "--json", "--python")
"""Options whose value need not be there."""

NEEDS = {
    "experiments/lift.yaml": "demos/lift.hdf5",
    "experiments/libero10.yaml": "demos/libero_10",
    "experiments/robocasa.yaml": "demos/robocasa",
    "experiments/robocasa_joint.yaml": "demos/robocasa",
    "EXPERIMENT=robocasa": "demos/robocasa",
    "evaluate ARGS": "runs/lift",
}
"""Words of a command -> what it reads without naming it."""


# --- what is printed --------------------------------------------------------------------------------------------------


def documented() -> dict[str, str]:
    """Command -> the page that prints it first.

    An indented or fenced line is one if it begins with a program of ours; so is inline code that says more than a
    program and its verb, and every inline `make TARGET`.
    """
    found: dict[str, str] = {}
    for page in PAGES:
        for text in commands_of(page.read_text()):
            found.setdefault(text, page.name)
    return found


def commands_of(page: str) -> Iterator[str]:
    """The commands of a page's text, in no order that means anything."""
    fenced = "\n".join(re.findall(r"^```(?:bash|sh|console)?\n(.*?)^```$", page, re.M | re.S))
    prose = re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S)
    indented = "\n".join(line for line in prose.splitlines() if line.startswith("    "))
    for line in f"{fenced}\n{indented}".replace("\\\n", " ").splitlines():
        text = " ".join(re.sub(r"\s+#.*", "", line).split())
        if re.match(r"(\w+=\S+ )*(videopolicy|lightning|make|python) ", text):
            yield text
    for text in re.findall(r"`([^`]+)`", prose):
        words = text.split()
        if words[:1] == ["make"] or (words[:1] and words[0] in ("python", *PROGRAMS) and len(words) > 2):
            yield " ".join(words)


def longest_start(text: str, table: dict[str, str]) -> str | None:
    """The longest key that a command begins with, word by word."""
    return max((start for start in table if f"{text} ".startswith(f"{start} ")), key=len, default=None)


def whole(text: str) -> str:
    """A command as it is run: gaps filled, and what makes it short appended."""
    text = PRINTED_WITH_GAPS.get(text, text)
    if text.startswith("videopolicy evaluate") and not re.search(r"--(checkpoint|policy) ", text):
        text += f" --checkpoint runs/lift/{LAST}"  # prose that names an option alone
    start = longest_start(text, SHORT)
    if start is None:
        return text
    options, separator, overrides = text.partition(" -- ")
    return f"{options} {SHORT[start]}{separator}{overrides}"


def inputs(text: str) -> list[str]:
    """Paths that a command reads, as it names them."""
    words = shlex.split(text)
    path = re.compile(r"my_demos|[\w.*-]+(/[\w.*-]+)+|\S+\.(ckpt|yaml|hdf5|json)")
    pairs = itertools.pairwise(words)
    named = [word for before, word in pairs if before not in UNREAD and path.fullmatch(word)]
    return named + [needed for start, needed in NEEDS.items() if start in text]


def needs_libero(text: str) -> bool:
    """Whether a command starts LIBERO."""
    return bool(re.search(r"--simulator libero|simulators check libero|--protocol libero", text))


# --- where it comes from ----------------------------------------------------------------------------------------------


def experiments(folder: Path) -> None:
    """experiments/ as it is, but for small experiments and networks, and trainers for this machine."""
    target = folder / "experiments"
    shutil.copytree(ROOT / "experiments", target)
    for name in EXPERIMENTS:
        (target / f"{name}.yaml").rename(target / f"whole_{name}.yaml")
        overlay = small_experiment(name)
        (target / f"{name}.yaml").write_text(yaml.safe_dump({"base": f"whole_{name}.yaml", **overlay}))
    for part in (target / "trainer").glob("*.yaml"):
        content = yaml.safe_load(part.read_text()) | {"accelerator": "cpu", "devices": 1, "precision": "32-true"}
        part.write_text(yaml.safe_dump(content))
    for name in ("reference", "svd"):
        (target / "networks" / f"{name}.yaml").write_text(yaml.safe_dump(small_video(name == "reference")))
    for name in ("lift", "robocasa"):  # for benchmarks, which read experiments of their own tree
        overlay = tiny_overlay(ROOT / "experiments" / f"{name}.yaml", Path("unused"), 2)
        (folder / f"tiny_{name}.yaml").write_text(yaml.safe_dump(overlay))
    for path, (_, text) in yaml_files().items():
        if not (folder / path).exists():
            (folder / path).write_text(text)
    # Scripts, and what the Makefile's targets are older or newer than.
    for name in ("benchmarks", "pyproject.toml", "constraints.txt"):
        (folder / name).symlink_to(ROOT / name)


def small_experiment(name: str) -> dict[str, Any]:
    """What makes an experiment small; its data stay where it says."""
    experiment = ROOT / "experiments" / f"{name}.yaml"
    unused = Path("unused")
    overlay = small_networks(unused) if name == "robocasa" else tiny_overlay(experiment, unused, 2)
    overlay["data"]["init_args"].pop("paths")
    if name == "lift":  # its rollouts say what `evaluate` and `variation` do without a protocol
        overlay["rollout"]["protocol"]["simulator"] = {"max_steps": 4}
    return overlay


def small_video(separate_condition_encoder: bool) -> dict[str, Any]:
    """The small video model as a part file, with an encoder for the conditioning frame or as SVD has it."""
    video: dict[str, Any] = small_experiment("robocasa")["model"]["init_args"]["video"]
    video["init_args"]["autoencoder"]["init_args"]["separate_condition_encoder"] = separate_condition_encoder
    links = {"num_views": "${len:${data.init_args.cameras}}", "num_frames": "${data.init_args.num_frames}"}
    video["init_args"] |= links
    return video


def demos(path: Path, layout: str) -> None:
    """Generated demos in the layout of robosuite, RoboCasa or LIBERO."""
    cameras = ("agentview", "robot0_eye_in_hand", "frontview")
    env: dict[str, Any] = {"env_name": "Lift", "type": 1, "env_kwargs": {}, "instruction": "lift the cube"}
    keys = {camera: f"{camera}_image" for camera in cameras}
    more: dict[str, str] = {}
    attributes = {"model_file": "<mujoco/>"}
    if layout == "robocasa":
        keys = {f"robot0_{c}": f"robot0_{c}_image" for c in ("agentview_left", "agentview_right", "eye_in_hand")}
        env = {"env_name": "CloseDrawer", "type": 1, "env_version": "1.4.1", "env_kwargs": {"robots": "PandaMobile"}}
        attributes["ep_meta"] = json.dumps({"layout_id": 1, "style_id": 1, "lang": "close the drawer"})
    if layout == "libero":
        keys = {camera: f"{camera.removeprefix('robot0_')}_rgb" for camera in cameras[:2]}
        env = {"env_name": "Libero_Floor_Manipulation", "type": 1, "problem_name": "libero_floor_manipulation"}
        problem = {"problem_name": "libero_floor_manipulation", "language_instruction": "pick up the milk"}
        more = {"problem_info": json.dumps(problem), "bddl_file_name": "milk.bddl"}
        attributes = {"init_state": "[]"}
    write_demos(
        path, keys, lengths=(12, 9, 7), size=16, action_dim=12 if layout == "robocasa" else 7, seed=0,
        demo_attributes=attributes, data_attributes={"env_args": json.dumps(env), **more},
    )  # fmt: skip


class Workplace:
    """A folder in which documented commands run, and what makes their inputs there.

    Args:
        folder: An empty folder.
        store: A workplace that keeps what takes long to make, or None for the one that is it.
    """

    def __init__(self, folder: Path, store: Workplace | None = None) -> None:
        self.folder = folder
        self.store = store
        experiments(folder)

    def provide(self, path: str) -> None:
        """Make an input.

        Raises:
            LookupError: No table says where it comes from.
        """
        if (self.folder / path).exists():
            return
        for start, make in self.makers().items():
            if path == start or path.startswith(f"{start}/"):
                make()
                if (self.folder / path).exists():
                    return
        raise LookupError(f"{path}: tests/documented.py does not say where this comes from")

    def makers(self) -> dict[str, Callable[[], None]]:
        """Path -> what makes it."""
        runs = {name: f"runs/{name}" for name in EXPERIMENTS}
        made: dict[str, Callable[[], None]] = {path: lambda n=n: self._trained(n) for n, path in runs.items()}
        for path in ("demos/lift.hdf5", "demos/lift200.hdf5", "demos/stack.hdf5"):
            made[path] = lambda path=path: demos(self.folder / path, "robosuite")
        for path in ("demos/robocasa", "my_demos"):
            made[path] = lambda path=path: demos(self.folder / path / "CloseDrawer" / "demo_im128.hdf5", "robocasa")
        made["demos/libero_10"] = lambda: demos(self.folder / "demos/libero_10/milk_demo.hdf5", "libero")
        evaluations = ["results/mine", "results/other", "results/a", "results/b"]
        evaluations += [
            f"runs/{run}/action/evaluations/last_{mark}" for run, mark in (("a", "1234abcd"), ("b", "5678abcd"))
        ]
        for path in evaluations:
            made[path] = lambda path=path: self._kept("results/mine", path, self._evaluate)
        for path in ("stage2.ckpt", "released.ckpt"):
            made[path] = lambda path=path: torch.save({"state_dict": self._published()}, self.folder / path)
        made["weights/released.ckpt"] = lambda: self._convert(self._published(), "weights/released.ckpt")
        made["weights/stage1.ckpt"] = lambda: self._convert(first_stage_only(self._published()), "weights/stage1.ckpt")
        made["weights/svd"] = self._stable_video_diffusion
        made["actions.json"] = self._statistics
        cache = "videopolicy cache -c experiments/robocasa.yaml -c tiny_cache.yaml --variants 1"
        made["latents/robocasa"] = lambda: self.succeed(cache)
        made["tiny_cache.yaml"] = self._autoencoder
        return made

    def _kept(self, path: str, wanted: str, make: Callable[[], None]) -> None:
        """Copy what the store has, made there once."""
        if self.store is None:
            if not (self.folder / path).exists():
                make()
            return
        self.store.provide(path)
        shutil.copytree(self.store.folder / path, self.folder / wanted)

    def _trained(self, name: str) -> None:
        command = f"lightning fit -c experiments/{name}.yaml"
        self._kept(f"runs/{name}", f"runs/{name}", lambda: self.succeed(command))

    def _evaluate(self) -> None:
        self.succeed(whole(f"videopolicy evaluate --checkpoint runs/lift/{LAST} --output results/mine"))

    def _published(self) -> dict[str, torch.Tensor]:
        """A published stage-2 checkpoint of robocasa.yaml's small networks."""
        generator = torch.Generator().manual_seed(0)
        stage = skeleton([str(self.folder / "experiments" / "robocasa.yaml")], "action")
        weights = {name: 0.1 * torch.randn(w.shape, generator=generator) for name, w in stage.state_dict().items()}
        source = Source("small", "native", weights)
        return published_table(source, plan(source, stage)) | {PREFIX_BY_PART["text"] + "logit_scale": torch.ones(())}

    def _convert(self, weights: dict[str, torch.Tensor], output: str) -> None:
        torch.save({"state_dict": weights}, self.folder / "published.ckpt")
        (self.folder / output).parent.mkdir(exist_ok=True)
        self.provide("demos/robocasa")
        self.succeed(
            f"videopolicy convert --from reference --to native --input published.ckpt --output {output} "
            "-c experiments/robocasa.yaml --model.video experiments/networks/reference.yaml"
        )

    def _stable_video_diffusion(self) -> None:
        folder, parts = self.folder / "weights" / "svd", small_video(False)["init_args"]
        build(parts["unet"]).unet.save_pretrained(folder / "unet")
        build(parts["autoencoder"]).vae.half().save_pretrained(folder / "vae")

    def _autoencoder(self) -> None:
        """An overlay with saved weights and latents smaller than the pictures, so that a cache gains something."""
        shape = {"block_out_channels": [32, 32, 32], "layers_per_block": 1, "separate_condition_encoder": False}
        SVDAutoencoder(**shape).vae.save_pretrained(self.folder / "weights" / "vae")
        autoencoder = {"class_path": "networks.SVDAutoencoder", "init_args": {**shape, "pretrained": "weights/vae"}}
        overlay = {"model": {"init_args": {"video": {"init_args": {"autoencoder": autoencoder}}}}}
        (self.folder / "tiny_cache.yaml").write_text(yaml.safe_dump(overlay))

    def _statistics(self) -> None:
        numbers = {"minimum": [-1.0] * 12, "maximum": [1.0] * 12}
        (self.folder / "actions.json").write_text(json.dumps(numbers))

    def succeed(self, text: str) -> None:
        """Run a command with its inputs that must not fail."""
        for path in inputs(text):
            self.provide(path)
        done = self.run(text)
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"

    def run(self, text: str, python: str = sys.executable, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run a command line here."""
        return subprocess.run(
            arguments(text, python),
            cwd=self.folder,
            env=environment(python),
            capture_output=True,
            text=True,
            timeout=timeout,
        )


def environment(python: str) -> dict[str, str]:
    """One thread a process, this tree's packages, and the counting simulator importable by workers."""
    paths = os.pathsep.join([str(ROOT), str(COUNTING)])
    path = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PYTHONPATH": paths, "PATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def arguments(text: str, python: str) -> list[str]:
    """A command line as the operating system takes it; `make` finds everything installed."""
    words = shlex.split(text)
    while re.fullmatch(r"\w+=\S+", words[0]):  # PYTHONPATH=tests/simulators, which `environment` has
        words = words[1:]
    if words[0] == "python":
        return [python, *words[1:]]
    if words[0] != "make":
        return [python, "-m", PROGRAMS[words[0]], *words[1:]]
    venv = Path(python).parent.parent
    installed = [word for name in ("robosuite", "all") for word in ("-o", f"{venv}/.installed-{name}")]
    return ["make", "-f", str(ROOT / "Makefile"), f"VENV={venv}", *installed, *words[1:]]
