"""The first file that a worker's interpreter runs: refuse what cannot work in one sentence, lend `simulators/`, serve.

It runs before anything of the package is imported and parses under Python 3.6, so that an interpreter that is too old
says so in words.
"""

import importlib.util
import json
import socket
import struct
import sys
from typing import List  # noqa: UP035 - list[str] is 3.9

OLDEST_PYTHON = (3, 9)
OLDEST_NUMPY = (1, 21)  # numpy.typing.NDArray


def main(folder: str, descriptor: int, paths: List[str]) -> None:  # noqa: UP006
    """Serve on an inherited socket, or answer its first request with what is missing.

    Args:
        folder: The `simulators` folder; only this package is lent, our other packages must not mix with the worker's.
        descriptor: The socket's.
        paths: Entries to add to `sys.path`; none for another interpreter, which has paths of its own.
    """
    sys.path[:] = [path for path in sys.path if path != folder]  # this file's own: its neighbours are no top modules
    sys.path += [path for path in paths if path not in sys.path and path != folder]
    sentence = what_is_missing()
    if sentence:
        refuse(descriptor, sentence)
        return
    spec = importlib.util.spec_from_file_location(
        "simulators", folder + "/__init__.py", submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["simulators"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from simulators.worker import main as serve

    serve(descriptor)


def what_is_missing() -> str:
    """One sentence if this interpreter cannot run a worker, else nothing."""
    python = sys.executable
    if sys.version_info < OLDEST_PYTHON:
        version = ".".join(map(str, sys.version_info[:3]))
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return f"{python} is Python {version}; workers need {oldest} or newer: name another interpreter in `python`."
    try:
        import numpy
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            return f"numpy of {python} does not import ({error}): reinstall it with {python} -m pip install numpy."
        return f"{python} has no numpy, which every worker needs: run {python} -m pip install numpy."
    except Exception as error:  # a broken build
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"numpy of {python} does not import ({reason}): reinstall it with {python} -m pip install numpy."
    if tuple(int(part) for part in numpy.__version__.split(".")[:2]) < OLDEST_NUMPY:
        oldest = ".".join(map(str, OLDEST_NUMPY))
        return f"numpy of {python} is {numpy.__version__}; workers need {oldest} or newer: install that."
    return ""


def refuse(descriptor: int, sentence: str) -> None:
    """Answer the first request with a mistake, in the form that `wire.py` gives it."""
    header = json.dumps({"body": {"mistake": sentence}, "arrays": []}).encode()
    with socket.socket(fileno=descriptor) as sock:
        sock.sendall(struct.pack(">I", len(header)) + header)
        while sock.recv(65536):  # the request itself, until the other side has read the answer and hangs up
            pass


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
