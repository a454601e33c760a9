"""The command that makes the whole model, merely rounded, for a task or mixture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from seap_export.corpus import Task
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.request.mixtures import GENERAL

#: How a task is given on the command line, without its name.
Given = Callable[[Task], str]


def whole_command(
    model: str,
    request: ExportRequest,
    mixture: str,
    precision: str,
    options: Mapping[str, Any],
    given: Given,
    out: str,
) -> str:
    """The command, in one line.

    Args:
        model: The dense model as `export` takes it.
        request: The export that the whole model was measured in.
        mixture: The task or mixture whose texts it is rounded with.
        options: Options of graphs that are not the usual ones.
        out: The output folder of the variants.
    """
    (mixed,) = (one for one in request.all_mixtures if one.name == mixture)
    words = ["seap-export", "export", model]
    for task in request.tasks:
        if task.name in mixed.weights:
            words += ["--task", f"{task.name}={given(task)}"]
    if request.support is not None:
        words += ["--support", f"{given(request.support.task)}:{request.support.share!r}"]
    words += _mixture(request, mixture)
    words += ["--ratio", "0", "--precision", precision]
    for name, value in options.items():
        words += ["--logits", value] if name == "logits" else ["--set", f"{name}={value}"]
    return " ".join(map(_quoted, [*words, "--out", f"{out.rstrip('/')}-{mixture}-{precision}"]))


def _mixture(request: ExportRequest, name: str) -> list[str]:
    """The options of a mixture; none for a single task."""
    mixture = next((mixture for mixture in request.mixtures if mixture.name == name), None)
    if mixture is None:
        return []
    if mixture.name != GENERAL:
        return _set(f"mix.{name}", mixture.weights)
    return ["--general", *_set("weight", {task: weight for task, weight in mixture.weights.items() if weight != 1.0})]


def _set(key: str, weights: Mapping[str, float]) -> list[str]:
    return [word for task, weight in weights.items() for word in ("--set", f"{key}.{task}={weight!r}")]


def _quoted(word: str) -> str:
    """A word as the shells of all systems take it; those of Windows know no single quotes."""
    return f'"{word}"' if " " in word else word
