"""Messages between processes: a JSON header with the raw bytes of its arrays behind it, and never a pickle.

A message is 4 bytes of header length (big endian), the header, then every array's bytes in the order of the header. The
two sides may run different Python and numpy versions.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from simulators.experts.episode import ExpertSettings
from simulators.messages import Array, DemoEpisode, EpisodeSpec, Observation, Transition

_LENGTH = struct.Struct(">I")
_RECORDS: dict[str, type] = {
    cls.__name__: cls for cls in (DemoEpisode, EpisodeSpec, ExpertSettings, Observation, Transition)
}
_ARRAY, _RECORD = "__array__", "__record__"


def send(sock: socket.socket, message: object) -> None:
    """Send a message of JSON values, numpy arrays and the protocol's dataclasses."""
    arrays: list[Array] = []
    body = _encode(message, arrays)
    header = json.dumps({"body": body, "arrays": [[a.dtype.str, list(a.shape)] for a in arrays]}).encode()
    sock.sendall(_LENGTH.pack(len(header)) + header)
    for array in arrays:
        sock.sendall(array.tobytes())


def receive(sock: socket.socket) -> Any:  # noqa: ANN401 - a message is any JSON value
    """Wait for one message.

    Raises:
        ConnectionError: If the other side is gone.
    """
    (length,) = _LENGTH.unpack(_read(sock, _LENGTH.size))
    header = json.loads(bytes(_read(sock, length)))
    arrays = []
    for dtype_name, shape in header["arrays"]:
        dtype = np.dtype(dtype_name)
        raw = _read(sock, dtype.itemsize * int(np.prod(shape, dtype=np.int64)))
        arrays.append(np.frombuffer(raw, dtype).reshape(shape))
    return _decode(header["body"], arrays)


def _read(sock: socket.socket, size: int) -> bytearray:
    """Exactly `size` bytes, in memory that may be written to."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = sock.recv_into(view)
        if count == 0:
            raise ConnectionError("the other side closed the connection")
        view = view[count:]
    return data


def _encode(value: object, arrays: list[Array]) -> Any:  # noqa: ANN401
    """Replace arrays by their number and records by marked dictionaries."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise TypeError(f"arrays of {value.dtype} do not cross the wire")
        arrays.append(value)
        return {_ARRAY: len(arrays) - 1}
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value) and type(value).__name__ in _RECORDS:
        content = {field.name: _encode(getattr(value, field.name), arrays) for field in fields(value)}
        return {_RECORD: type(value).__name__, "fields": content}
    if isinstance(value, dict):
        return {str(key): _encode(item, arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item, arrays) for item in value]
    return value  # json.dumps refuses what is not JSON


def _decode(value: Any, arrays: list[Array]) -> Any:  # noqa: ANN401
    """Undo `_encode`; tuples come back as lists."""
    if isinstance(value, dict):
        if _ARRAY in value:
            return arrays[value[_ARRAY]]
        if _RECORD in value:
            return _RECORDS[value[_RECORD]](**_decode(value["fields"], arrays))
        return {key: _decode(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    return value
