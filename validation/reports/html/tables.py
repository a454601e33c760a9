"""Tables of the page whose columns depend on the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from validation.reports.figures import QUALITY, Cell
from validation.reports.html.charts import layer_sizes
from validation.reports.numbers import NOTHING, percent, percent_with_error
from validation.reports.reading import Json, check_label, label

Row = Sequence[str | Cell]
#: The names of the columns, and the rows.
Table = tuple[Sequence[str], Sequence[Row]]


def verdict_table(checks: Sequence[Json]) -> Table:
    """A row for each subject, a column for each check."""
    names = list(dict.fromkeys(map(check_label, checks)))
    verdicts = {(check["variant"], check_label(check)): check["verdict"] for check in checks}
    rows: list[Row] = [
        (label(subject), *(Cell(verdicts.get((subject, name), NOTHING)) for name in names))
        for subject in dict.fromkeys(check["variant"] for check in checks)
    ]
    return ("Subject", *names), rows


def task_table(tasks: Mapping[str, Json]) -> Table:
    """A row for each task, a column for each key that the report has of any task."""
    keys = list(dict.fromkeys(key for task in tasks.values() for key in task))
    rows = [(name, *(plain(task.get(key)) for key in keys)) for name, task in tasks.items()]
    return ("Task", *(key.replace("_", " ").capitalize() for key in keys)), rows


def plain(value: Any) -> str:
    """A JSON value of any type as text; a dash for null."""
    if value is None:
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def divergence_table(divergence: Mapping[str, Json]) -> Table:
    """A row for each form of a variant, a column for each figure of its divergence."""
    rows: list[Row] = [
        (form, *(row.cell({"quality": figures}) for row in QUALITY)) for form, figures in divergence.items()
    ]
    return ("Form", *(row.head for row in QUALITY)), rows


def layer_table(layers: Sequence[Json]) -> Table:
    """A row for each layer: the share of its weights that is left, and its sizes, such as numbers of heads."""
    sizes = layer_sizes(layers)
    rows = [
        (str(index), percent(layer["kept"]), *(str(layer.get(key, "")) for key in sizes))
        for index, layer in enumerate(layers)
    ]
    return ("Layer", "Weights kept", *(words[0].upper() + words[1:] for words in sizes.values())), rows


def scores(quality: Json, kind: str) -> list[tuple[str, str, Json, str, str]]:
    """The scores of one kind of tasks, ordered by task.

    Returns:
        For each task and form: their names, the figures, how much more accurate it is than the dense model, paired by
        question, and how many right answers became wrong, and wrong ones right.
    """
    rows = []
    for form, by_task in (quality.get(kind) or {}).items():
        for task, figures in by_task.items():
            more = (quality.get("accuracy_difference") or {}).get(form, {}).get(task)
            difference = "" if more is None else percent_with_error(more["mean"], more["stderr"], signed=True)
            flips = (quality.get("flipped") or {}).get(form, {}).get(task)
            words = "" if flips is None else f"{flips['right_to_wrong']:,} / {flips['wrong_to_right']:,}"
            rows.append((task, form, figures, difference, words))
    return sorted(rows, key=lambda row: row[0])
