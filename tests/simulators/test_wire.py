from __future__ import annotations

import socket
import threading

import numpy as np
import pytest

from simulators import wire
from simulators.messages import EpisodeSpec, Observation, Transition


def exchange(message: object) -> object:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=wire.send, args=(ours, message))
        sender.start()
        received = wire.receive(theirs)
        sender.join()
    return received


def test_arrays_and_records_arrive_as_they_were_sent() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)[:, ::-1]  # not contiguous
    observation = Observation({"left": image}, {"x": np.array([0.1], dtype=np.float32)}, "näher", 3)
    got = exchange({"reply": Transition(observation, False, True, 4, [{"left": image}])})["reply"]  # type: ignore[index]
    assert isinstance(got, Transition)
    assert got.observation is not None
    np.testing.assert_array_equal(got.observation.images["left"], image)
    assert got.observation.proprio["x"].dtype == np.float32
    assert (got.observation.instruction, got.num_steps, got.done) == ("näher", 4, True)
    np.testing.assert_array_equal(got.frames[0]["left"], image)


def test_large_and_empty_arrays_and_plain_values_arrive() -> None:
    message = {
        "big": np.random.default_rng(0).random(300_000),
        "empty": np.zeros((0, 7)),
        "n": np.int64(3),
        "none": None,
    }
    got = exchange(message)
    assert isinstance(got, dict)
    np.testing.assert_array_equal(got["big"], message["big"])
    assert got["empty"].shape == (0, 7)
    assert (got["n"], got["none"]) == (3, None)


def test_received_arrays_may_be_written_to() -> None:
    got = exchange(np.zeros(3))
    assert isinstance(got, np.ndarray)
    got += 1


def test_episode_spec_keeps_its_missing_initial_state() -> None:
    spec = EpisodeSpec("suite", "task", 3)
    assert exchange(spec) == spec


def test_object_arrays_are_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(TypeError, match="object"):
        wire.send(ours, np.array([object()]))


def test_a_closed_connection_is_an_error_not_an_empty_message() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs, pytest.raises(ConnectionError):
        wire.receive(theirs)
