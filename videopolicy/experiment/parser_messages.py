"""What jsonargparse says about a config, as one sentence with the key, what was found and the nearest right name."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jsonargparse import ArgumentParser

from files.nearest import nearest
from policies import FORMER_ARGUMENTS
from videopolicy.experiment.override_values import BARE

_UNKNOWN_KEY = re.compile(r"(?:Group '(.+)' does not accept option|Option) '(.+?)'")
_STEP = re.compile(r"Parser key \"(?P<key>.+)\":|Problem with given class_path '(?P<class>.+)':")
_NOISE = re.compile(r"Does not validate against|Subtypes: |Errors:|Given value|Expected a <class 'NoneType'>$")


@dataclass(frozen=True)
class Complaint:
    """One leaf of jsonargparse's message: dotted key, innermost class path (or none), and text."""

    key: str
    class_path: str | None
    text: str


def one_sentence(message: str, known_keys: Sequence[str]) -> str:
    """Rewrite a parser's error message, which quotes the whole config where a class has a wrong argument.

    Args:
        message: What jsonargparse raised.
        known_keys: Dotted keys that the parser itself has (``trainer.max_steps``).
    """
    if (match := _UNKNOWN_KEY.match(message)) is not None:
        unknown = ".".join(part for part in match.groups() if part)
        return f"{unknown}: no such key; {_nearest_key(unknown, known_keys)}"
    complaints = _complaints(message)
    for say in (_unknown_argument, _missing_argument, _unknown_class):  # the most telling, of several types tried
        for complaint in complaints:
            if (sentence := say(complaint)) is not None:
                return sentence
    return _wrong_value(complaints, message)


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
        if step := _STEP.match(text):
            stack.append((indent, step["key"] or "init_args", step["class"]))
        else:
            classes = [class_path for _, _, class_path in stack if class_path]
            found.append(Complaint(".".join(part for _, part, _ in stack), classes[-1] if classes else None, text))
    return found


def _unknown_argument(complaint: Complaint) -> str | None:
    if (match := re.search(r"Option '(.+?)' is not accepted", complaint.text)) is None:
        return None
    key, class_path = complaint.key, complaint.class_path
    if inside := re.findall(r"class_path='([^']+)'", complaint.text):  # a callable says its class only here
        key, class_path = f"{key}.init_args", inside[0]
    options = argument_names(class_path) if class_path else []
    hint = nearest(match[1], options) if options else "remove it."
    if match[1] in FORMER_ARGUMENTS:
        hint = f"say {FORMER_ARGUMENTS[match[1]]}."
    return f"{key}.{match[1]}: {(class_path or key).rpartition('.')[2]} takes no argument {match[1]!r}; {hint}"


def _missing_argument(complaint: Complaint) -> str | None:
    if (match := re.search(r"arguments are required: (.+)", complaint.text)) is None:
        return None
    return f"{complaint.key}: {(complaint.class_path or complaint.key).rpartition('.')[2]} needs {match[1]}."


def _unknown_class(complaint: Complaint) -> str | None:
    text, key = complaint.text, complaint.key.removesuffix(".init_args") + ".class_path"
    if match := re.search(r"No module named '(.+)'", text):
        return f"{key}: no module {match[1]!r} to take {complaint.class_path!r} from; install its package."
    if match := re.search(r"dot import path string: (\S+)|has no attribute '(\w+)'", text):
        name = match[1] or match[2]
        return f"{key}: no class {name!r}; {nearest(name, class_names())}"
    return None


def _wrong_value(complaints: Sequence[Complaint], message: str) -> str:
    """What was expected of the first key that is complained of, as any of the types tried, and what was found."""
    if not complaints:
        return " ".join(message.split())
    key = complaints[0].key
    text = " or ".join(dict.fromkeys(" ".join(other.text.split()) for other in complaints if other.key == key))
    text = re.sub(r"Expected a <class '(?:[\w]+\.)*(\w+)'>", r"expected \1", text)
    text = re.sub(r"Expected a typing\.Literal\[(.+?)\]", r"expected one of \1", text)
    given = None if "Got value" in text else re.search(r"Given value: (.+)", message)
    found = f", found {given[1]}" if given else ""
    return f"{key}: {text.replace('. Got value: ', ', found ').rstrip('.')}{found}."


def argument_names(class_path: str) -> list[str]:
    """Names that ``init_args`` of a class may hold, inherited ones included."""
    module, _, name = class_path.rpartition(".")
    target = getattr(importlib.import_module(module), name)
    if inspect.isclass(target):
        names: list[str] = ArgumentParser(exit_on_error=False).add_class_arguments(target, fail_untyped=False)
    else:
        names = list(inspect.signature(target).parameters)
    return sorted({str(entry).split(".")[0] for entry in names})


def class_names() -> list[str]:
    """Names of the classes that a config may use bare."""
    modules = (importlib.import_module(package) for package in (*BARE, "simulators"))
    found = {name for module in modules for name, value in vars(module).items() if inspect.isclass(value)}
    return sorted(name for name in found if not name.startswith("_"))
