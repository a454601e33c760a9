"""The command that makes the whole model, merely rounded, for a task or mixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from seap_export.corpus import Task
from seap_export.pipeline.card.recipe import mixture_options
from seap_export.pipeline.request.export_request import ExportRequest

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
    words += _options({**mixture_options(request, mixture, given), "ratio": 0, "precision": precision})
    for name, value in options.items():
        words += ["--logits", value] if name == "logits" else ["--set", f"{name}={value}"]
    return " ".join(map(_quoted, [*words, "--out", f"{out.rstrip('/')}-{mixture}-{precision}"]))


def _options(values: Mapping[str, Any], table: str = "") -> Iterator[str]:
    """Options as on the command line; those of tables are settings, such as `--set mix.both.maths=2.0`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _options(value, f"{table}{name}.")
        elif table:
            yield from ("--set", f"{table}{name}={value!r}")
        else:
            yield from (f"--{name}", *([] if value is True else [str(value)]))


def _quoted(word: str) -> str:
    """A word as the shells of all systems take it; those of Windows know no single quotes."""
    return f'"{word}"' if " " in word else word
