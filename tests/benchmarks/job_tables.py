"""Writes tables of jobs, each with the columns `message` and `answer`, for exports to learn.

    python tests/benchmarks job_tables TABLES --rows 300
    seap-export export MODEL --task dates=TABLES/dates.csv:message:answer --out DIR

Three are made up: messages with one of five labels, dates, and orders; both are answered in JSON. With `--questions`,
the questions of BoolQ with their passages are a fourth.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from datetime import date, timedelta
from itertools import islice
from pathlib import Path

import click

from seap_export.corpus.readers import read_records

Row = tuple[str, str]

_WAYS = {
    "shipping": (
        "where is my {item}", "my {item} has not arrived yet", "when will the {item} be delivered",
        "the {item} was due on {day} and is not here", "can you track my {item}", "has the {item} left the depot",
    ),
    "refund": (
        "i want my money back for the {item}", "how do i return the {item}", "please refund the {item}",
        "the {item} is not what i ordered, take it back", "when do i get the money for the {item} i sent back",
        "i sent the {item} back on {day}, where is my payment",
    ),
    "billing": (
        "i was charged twice for the {item}", "the invoice for the {item} is wrong", "can i pay the {item} by card",
        "why is there a fee on the bill for my {item}", "please send me the invoice of {day}",
        "my card was declined for the {item}",
    ),
    "account": (
        "i cannot log in since {day}", "how do i change my password", "please delete my account",
        "my email address has changed", "someone else ordered a {item} as me", "i never got the code to sign in",
    ),
    "product": (
        "does the {item} come in blue", "how heavy is the {item}", "is the {item} waterproof",
        "what is the {item} made of", "how long does the battery of the {item} last", "do you still make the {item}",
    ),
}  # fmt: skip
_ITEMS = (
    "kettle", "lamp", "jacket", "phone", "tent", "radio", "chair", "watch",
    "camera", "backpack", "drill", "blender", "mirror", "keyboard",
)  # fmt: skip
_DAYS = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
)  # fmt: skip
_OPENINGS = ("", "hi, ", "hello, ", "good morning. ", "excuse me, ", "hey! ")
_ENDINGS = ("", "?", ".", ", please", ", thanks", "!")
_SIZES = ("small", "medium", "large")
_NAMES = (
    "Ada", "Bela", "Carla", "Dev", "Emil", "Fatou", "Goran", "Hana",
    "Igor", "Jun", "Kofi", "Lena", "Mia", "Nils", "Olga", "Pia",
)  # fmt: skip


def _intent(chance: random.Random) -> Row:
    """A message to a shop, and one of five labels."""
    label = chance.choice(list(_WAYS))
    text = chance.choice(_WAYS[label]).format(item=chance.choice(_ITEMS), day=chance.choice(_DAYS))
    return chance.choice(_OPENINGS) + text + chance.choice(_ENDINGS), label


def _date(chance: random.Random) -> Row:
    """A sentence with a date, and the date as JSON."""
    day = date(2020, 1, 1) + timedelta(chance.randrange(4000))
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10 if day.day not in (11, 12, 13) else 0, "th")
    written = chance.choice(
        (
            f"{day:%B} {day.day}, {day.year}", f"{day.day} {day:%B} {day.year}", f"{day:%d.%m.%Y}", f"{day:%Y/%m/%d}",
            f"the {day.day}{suffix} of {day:%B} {day.year}", f"{day.day} {day:%b} {day:%y}",
        )
    )  # fmt: skip
    text = chance.choice(
        ("We meet on {}.", "The contract ends {}.", "Due: {}", "She was hired on {}, I think.", "Paid {}")
    )
    return text.format(written), json.dumps({"date": day.isoformat()})


def _order(chance: random.Random) -> Row:
    """An order in words, and its fields."""
    number, size = chance.randrange(1, 13), chance.choice(_SIZES)
    item, name = chance.choice(_ITEMS), chance.choice(_NAMES)
    word = chance.choice((str(number), "a dozen" if number == 12 else str(number)))
    text = chance.choice(
        (
            "{name} wants {word} {size} {item}s", "please send {word} {item}s to {name}, size {size}",
            "{word} of the {size} {item}s for {name}", "{name}: {item} x {number}, {size}",
        )
    ).format(name=name, word=word, number=number, size=size, item=item)  # fmt: skip
    return text, json.dumps({"name": name, "item": item, "number": number, "size": size})


def _questions(file: Path, number: int) -> list[Row]:
    """The first passages with a question, and yes or no, of a file of BoolQ."""
    records = islice(read_records(file), number)
    return [(f"{one['passage']} {one['question']}?", "yes" if one["answer"] else "no") for one in records]


#: The jobs that are made up, by name.
MADE: dict[str, Callable[[random.Random], Row]] = {"intents": _intent, "dates": _date, "orders": _order}


def rows_of(job: str, number: int) -> list[Row]:
    """So many rows of a job, whose inputs differ."""
    chance, rows = random.Random(job), dict[str, str]()
    while len(rows) < number:
        text, answer = MADE[job](chance)
        rows.setdefault(text, answer)
    return list(rows.items())


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--rows", "number", default=300, show_default=True, help="Rows of each table.")
@click.option("--questions", type=click.Path(exists=True, path_type=Path), help="A file of BoolQ.")
def job_tables(folder: Path, number: int, questions: Path | None) -> None:
    """Write a table for each job into FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {job: rows_of(job, number) for job in MADE}
    if questions is not None:
        tables["boolq"] = _questions(questions, number)
    for job, rows in tables.items():
        with (folder / f"{job}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("message", "answer"), *rows])
