"""What jsonargparse says about a config, as one sentence with the key, what was found and the nearest right name."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jsonargparse import ArgumentParser

from files.nearest import nearest

PACKAGES = (
    "lightning_modules",
    "policies",
    "datamodules",
    "callbacks",
    "networks",
    "simulators",
    "lightning.pytorch.callbacks",
)
_KEY = re.compile(r'Parser key "(.+)":')
_CLASS = re.compile(r"Problem with given class_path '(.+)':")
_NOISE = re.compile(r"Does not validate against|Subtypes: |Errors:|Given value|Expected a <class 'NoneType'>$")
# The most telling complaint wins where a value was tried as several types.
_TELLING = (
    re.compile(r"Option '.+' is not accepted"),
    re.compile(r"arguments are required"),
    re.compile(r"has no attribute|No module named|dot import path|does not correspond to a subclass"),
)


@dataclass(frozen=True)
class Complaint:
    """One leaf of jsonargparse's message: dotted key, innermost class path (or none), text, and what was given."""

    key: str
    class_path: str | None
    text: str
    value: str | None = None


def one_sentence(message: str, known_keys: Sequence[str]) -> str:
    """Rewrite a parser's error message.

    Args:
        message: What jsonargparse raised.
        known_keys: Dotted keys that the parser itself has (``trainer.max_steps``).
    """
    if (match := re.match(r"(?:Group '(.+)' does not accept option|Option) '(.+?)'", message)) is not None:
        unknown = ".".join(part for part in match.groups() if part)
        return f"{unknown}: no such key; {_nearest_key(unknown, known_keys)}"
    complaint = _most_telling(_complaints(message))
    if (
        complaint is not None
        and (given := re.search(r"Given value: (.+)", message))
        and "Got value" not in complaint.text
    ):
        complaint = replace(complaint, value=given[1])
    if complaint is None:
        return " ".join(message.split())
    return _rewrite(complaint)


def _nearest_key(unknown: str, known_keys: Sequence[str]) -> str:
    """Compare with the keys beside the unknown one; a misspelt first part with all first parts."""
    folder, _, _ = unknown.rpartition(".")
    beside = [key for key in known_keys if key.rpartition(".")[0] == folder]
    if not beside:
        unknown, beside = unknown.split(".")[0], [key.split(".")[0] for key in known_keys]
    return nearest(unknown, beside)


def _complaints(message: str) -> list[Complaint]:
    """Read the indented message as a tree of keys and classes whose leaves are the complaints."""
    found: list[Complaint] = []
    stack: list[tuple[int, str, str | None]] = []  # indent, key part, class path
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        indent = len(line) - len(line.lstrip())
        if not text or _NOISE.match(text):
            continue
        while stack and stack[-1][0] >= indent:
            stack.pop()
        if match := _KEY.match(text):
            stack.append((indent, match[1], None))
        elif match := _CLASS.match(text):
            stack.append((indent, "init_args", match[1]))
        else:
            classes = [class_path for _, _, class_path in stack if class_path]
            found.append(Complaint(".".join(part for _, part, _ in stack), classes[-1] if classes else None, text))
    return found


def _most_telling(complaints: list[Complaint]) -> Complaint | None:
    for pattern in _TELLING:
        for complaint in complaints:
            if pattern.search(complaint.text):
                return complaint
    if not complaints:
        return None
    first = complaints[0]
    same = [other.text for other in complaints if other.key == first.key]
    return Complaint(first.key, first.class_path, " or ".join(dict.fromkeys(same)))


def _rewrite(complaint: Complaint) -> str:
    key, text = complaint.key, complaint.text
    if match := re.search(r"Option '(.+?)' is not accepted", text):
        inside = re.findall(r"class_path='([^']+)'", text)  # a callable says its class only here
        class_path = inside[0] if inside else complaint.class_path
        if inside:
            key += ".init_args"
        options = argument_names(class_path) if class_path else []
        name = (class_path or key).rpartition(".")[2]
        hint = nearest(match[1], options) if options else "remove it."
        return f"{key}.{match[1]}: {name} takes no argument {match[1]!r}; {hint}"
    if match := re.search(r"arguments are required: (.+)", text):
        return f"{key}: {(complaint.class_path or key).rpartition('.')[2]} needs {match[1]}, and it is not given."
    if match := re.search(r"dot import path string: (\S+)|has no attribute '(\w+)'", text):
        name = match[1] or match[2]
        return f"{_class_key(key)}: no class {name!r}; {nearest(name, class_names())}"
    if match := re.search(r"No module named '(.+)'", text):
        return f"{_class_key(key)}: no module {match[1]!r} to take {complaint.class_path!r} from; install its package."
    text = re.sub(r"Expected a <class '(?:[\w]+\.)*(\w+)'>", r"expected \1", " ".join(text.split()))
    text = re.sub(r"Expected a typing\.Literal\[(.+?)\]", r"expected one of \1", text)
    found = f", found {complaint.value}" if complaint.value is not None else ""
    return f"{key}: {text.replace('. Got value: ', ', found ').rstrip('.')}{found}."


def _class_key(key: str) -> str:
    return key.removesuffix(".init_args") + ".class_path"


def argument_names(class_path: str) -> list[str]:
    """Names that ``init_args`` of a class may hold, inherited ones included."""
    module, _, name = class_path.rpartition(".")
    parser = ArgumentParser(exit_on_error=False)
    target = getattr(importlib.import_module(module), name)
    if inspect.isclass(target):
        names: list[str] = parser.add_class_arguments(target, fail_untyped=False)
    else:
        names = list(inspect.signature(target).parameters)
    return sorted({str(entry).split(".")[0] for entry in names})


def class_names() -> list[str]:
    """Names of the classes that a config may use bare."""
    names: set[str] = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        names |= {name for name, value in vars(module).items() if inspect.isclass(value) and not name.startswith("_")}
    return sorted(names)
