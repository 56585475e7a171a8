"""From what was asked for to what is run: the policy, what names it, and the complete protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from files.errors import UserError
from networks import read_checkpoint
from policies import Policy, load_policy
from rollouts import Actor, RandomPolicy, ReplayPolicy, ScriptedPolicy, ZeroPolicy
from simulators import SimulatorConfig
from videopolicy.evaluation.controls import demo_actions, forget_training
from videopolicy.evaluation.fairness import compared_with_demos, judged_fairly, picture_size
from videopolicy.evaluation.held_out import FIRST_SEED
from videopolicy.evaluation.identity import fingerprint
from videopolicy.evaluation.protocol import Protocol, find_protocol, protocol_names, read_protocol, stored_protocol
from videopolicy.evaluation.request import LEARNED, EvaluationRequest


@dataclass(frozen=True)
class Prepared:
    """What an evaluation is of.

    Args:
        policy: Anything with `act`.
        identity: What names it in ``protocol.json``: ``kind``, ``sha256`` and so on.
        protocol: With its tasks named.
    """

    policy: Actor
    identity: Mapping[str, Any]
    protocol: Protocol

    def default_output(self, checkpoint: Path | None) -> Path:
        """A directory that only the same policy under the same protocol shares; more episodes may be added to it."""
        digest = fingerprint({"policy": self.identity, "protocol": self.protocol.to_dict()})[:8]
        if checkpoint is not None and self.identity["kind"] == "checkpoint":
            return checkpoint.parent.parent / "evaluations" / f"{checkpoint.stem}_{digest}"
        name = f"{self.protocol.name.replace(' ', '_')}_{self.identity['kind']}_{digest}"
        return Path("runs") / "evaluations" / name


def prepare(request: EvaluationRequest) -> Prepared:
    """Load the policy and complete the protocol.

    Raises:
        UserError: The options do not say what to do or contradict one another, or the checkpoint cannot be used.
        SimulatorError: The simulator cannot be used.
    """
    file = None if request.protocol is None else find_protocol(request.protocol)
    if file is not None:
        read_protocol(file)  # a slip in it must not wait for the checkpoint
    _require_consistent(request)
    checkpoint = request.checkpoint
    document = {} if checkpoint is None else read_checkpoint(checkpoint)
    network = None
    if request.policy in LEARNED:
        assert checkpoint is not None, "_require_consistent has asked for it"
        network = load_policy(checkpoint, request.device, document, request.precision, request.compile)
        if request.policy == "untrained":
            forget_training(network, document)
    protocol = _overridden(_chosen(request, file, document, network), request)
    if network is not None:
        _require_fit(network, protocol, checkpoint)
    protocol = protocol.with_tasks(request.tasks)
    if document:
        assert checkpoint is not None
        chosen = request.as_in_training or request.first_seed is not None
        protocol = judged_fairly(protocol, document, checkpoint, request.words, chosen)
        protocol = replace(protocol, origin=None) if network is None else compared_with_demos(protocol)
    if network is not None:
        request.sampling.apply(network)
    return Prepared(network or blind_policy(request, protocol.execute_steps), request.identity(), protocol)


def blind_policy(request: EvaluationRequest, execute_steps: int) -> Actor:
    """A policy that looks at no picture: ``replay``, ``scripted``, ``random`` or ``zero``."""
    if request.policy == "replay":
        assert request.demos is not None, "_require_consistent has asked for it"
        return ReplayPolicy(demo_actions(request.demos), execute_steps)
    if request.policy == "scripted":
        return ScriptedPolicy()
    return RandomPolicy(execute_steps) if request.policy == "random" else ZeroPolicy(execute_steps)


def _require_consistent(request: EvaluationRequest) -> None:
    if request.policy in LEARNED and request.checkpoint is None:
        raise UserError("no policy: give --checkpoint FILE, or --policy scripted, random or zero.")
    if (request.policy == "replay") != (request.demos is not None):
        raise UserError("--policy replay plays the actions of --demos FILE; give both, or neither.")
    if request.checkpoint is None and (request.as_in_training or request.words == "demos"):
        option = "--as-in-training" if request.as_in_training else "--words demos"
        raise UserError(f"{option}: only a checkpoint knows its training; give --checkpoint FILE, or leave it out.")
    if request.policy not in LEARNED and request.sampling.given():
        options = ", ".join(f"--{name.replace('_', '-')}" for name in request.sampling.given())
        raise UserError(f"{options}: --policy {request.policy} samples nothing; leave them out.")


def _chosen(
    request: EvaluationRequest, file: Path | None, document: Mapping[str, Any], network: Policy | None
) -> Protocol:
    """The protocol that was named, else the checkpoint's own, else one made of options.

    Args:
        request: What was asked for.
        file: The file of `--protocol`.
        document: Content of the checkpoint; empty without one.
        network: The policy, which decides cameras and image size where nothing else does.
    """
    data = None if network is None else network.data
    stored = document.get("rollout")
    if file is not None:
        protocol = read_protocol(file) if data is None else read_protocol(file, picture_size(document, data))
        if request.simulator not in (None, protocol.simulator.name):
            raise UserError(
                f"--simulator {request.simulator}: protocol {protocol.name!r} is of {protocol.simulator.name}; "
                "leave one of them out."
            )
        seen = protocol.simulator.cameras
        if data is not None and set(data.cameras) <= set(seen):  # draw no picture that the policy does not look at
            return replace(protocol, simulator=replace(protocol.simulator, cameras=list(data.cameras)))
        return protocol
    if stored is not None and request.simulator in (None, stored["simulator"]["name"]):
        assert request.checkpoint is not None
        protocol = stored_protocol(stored, f"training of {request.checkpoint.stem}")
        return protocol if request.as_in_training else replace(protocol, first_seed=FIRST_SEED)
    if data is not None and request.simulator and request.tasks:
        simulator = SimulatorConfig(request.simulator, ["all"], list(data.cameras), picture_size(document, data))
        steps = max(data.action_horizon // 2, 1)
        return Protocol("command line", "options of the command line", simulator, 20, FIRST_SEED, steps)
    known = ", ".join(protocol_names())
    if request.checkpoint is None:
        raise UserError(f"no protocol: give --protocol NAME ({known}), or a --checkpoint that was rolled out.")
    raise UserError(
        f"{request.checkpoint}: trained without rollouts, so it names no simulator; give --protocol NAME ({known}), "
        "or --simulator and --tasks."
    )


def _overridden(protocol: Protocol, request: EvaluationRequest) -> Protocol:
    """The protocol with what single options change in it."""
    simulator: dict[str, Any] = {"suite": request.suite, "max_steps": request.max_steps, "python": request.python}
    if request.suite not in (None, protocol.simulator.suite):
        simulator["tasks"] = ["all"]
    simulator["variation"] = dict(request.variation) or None
    config = replace(protocol.simulator, **{name: value for name, value in simulator.items() if value is not None})
    rest: dict[str, Any] = {
        "episodes_per_task": request.episodes,
        "first_seed": request.first_seed,
        "execute_steps": request.execute_steps,
        "timeout_s": request.timeout,
    }
    return replace(protocol, simulator=config, **{name: value for name, value in rest.items() if value is not None})


def _require_fit(network: Policy, protocol: Protocol, checkpoint: Path | None) -> None:
    """Fail before the first episode if the policy wants pictures that the protocol does not draw."""
    data = network.data
    if missing := [camera for camera in data.cameras if camera not in protocol.simulator.cameras]:
        raise UserError(
            f"{checkpoint}: was trained on cameras {list(data.cameras)}, but protocol {protocol.name!r} has "
            f"{list(protocol.simulator.cameras)}, without {missing}; add them to a protocol file of your own."
        )
    if protocol.execute_steps > data.action_horizon:
        raise UserError(
            f"{checkpoint}: gives {data.action_horizon} actions at a time, but protocol {protocol.name!r} executes "
            f"{protocol.execute_steps}; add --execute-steps {max(data.action_horizon // 2, 1)}."
        )
