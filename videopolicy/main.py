"""The `videopolicy` command: one module a verb."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from files.nearest import nearest
from videopolicy.lightning_cli import is_users_mistake

VERBS = {
    "demo": "collect Lift demos, train both stages, and compare the policy with its controls",
    "collect": "record demos of a task with a scripted expert",
    "inspect": "show tasks, demos, cameras, instructions, action ranges and problems of demo files",
    "convert": "turn Stable Video Diffusion or published weights into a checkpoint of ours, and back",
    "evaluate": "roll a policy out by a protocol and report success rates with 95 % Wilson intervals",
    "compare": "compare two evaluations over the same episodes in pairs, with an interval and McNemar's p",
    "variation": "evaluate a policy under growing variation and draw success over it",
    "video-quality": "measure on held-out demos whether a video network films, step by step, and draw it",
    "study": "train and evaluate rows of experiments over action demos and seeds, into one table with intervals",
    "report": "write one HTML page about an evaluation or a training run, failures first",
    "simulators": "list the simulators that there are, or check that one builds, steps and draws here",
    "profile": "tell what an experiment takes: parameters, FLOPs, memory, seconds per step and per replan",
    "cache": "encode every frame and instruction of an experiment once; training then reads latents",
}
"""Verb -> what `--help` says of it; here, so that the list imports none of them."""


class OneSentenceParser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, with the nearest verb where one was misspelt."""

    def error(self, message: str) -> Any:  # noqa: ANN401 - never returns
        """Print one line and exit with status 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `videopolicy VERB ...`; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(overview())
        return 0
    name, *rest = given
    if name not in VERBS:
        print(f"videopolicy: no verb {name!r}; {nearest(name, VERBS)}", file=sys.stderr)
        return 2
    module = verb(name)
    parser = OneSentenceParser(prog=f"videopolicy {name}", description=VERBS[name])
    module.add_arguments(parser)
    try:
        status: int = module.run(parser.parse_args(rest))
    except Exception as error:
        if not is_users_mistake(error):
            raise
        print(f"videopolicy {name}: {error}", file=sys.stderr)
        return 2
    return status


def verb(name: str) -> ModuleType:
    """The module of a verb; imported only when it is used."""
    return importlib.import_module(f"videopolicy.{name.replace('-', '_')}")


def overview() -> str:
    """What `videopolicy --help` prints."""
    lines = [f"  {name:13} {said}" for name, said in VERBS.items()]
    return "\n".join(["usage: videopolicy VERB [options]", "", *lines, "", "videopolicy VERB --help says more."])


if __name__ == "__main__":
    sys.exit(main())
