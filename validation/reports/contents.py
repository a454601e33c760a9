"""A validation as a document: the verdict, what failed, all files, and further sections in the order of a page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from validation.reports import recommended
from validation.reports.document import Block, Cell, Items, Section, Table, Words
from validation.reports.elsewhere import loss_table
from validation.reports.files import COLUMNS, File, measured_files, whole_rows
from validation.reports.frontier import frontier_table
from validation.reports.numbers import NOTHING, megabytes
from validation.reports.reading import (
    EXIT_WORDS,
    Json,
    advice,
    bisection,
    check_label,
    counted,
    diverges_first,
    failed_checks,
    headline,
    label,
    remarks,
    status,
    written_answers,
)
from validation.reports.variant_section import variant_section
from validation.reports.whole import beaten

_INTERVALS = (
    "The interval of a speed-up contains the true median in at least 15 of 16 cases. If it contains 1, no speed-up "
    "has been shown. KL says how far the predictions are from the dense model's on held-out texts: 0 if they are the "
    "same. ± is its standard error over these texts. The quantisations of llama.cpp are a yardstick, measured on "
    "another model and on other texts."
)
_WHOLE = (
    "From the whole model, nothing is removed; it was measured on the same texts and in the same session, and is in "
    "the folder only where its name is a path. For int4, it was rounded with few of the calibration tokens. Another "
    "file that is as small and as near to the original beats one. Speed-ups are over the dense model in the precision "
    "of the variants."
)
_FRONTIER = (
    "KL (nats per token, ± its standard error) and top-1 agreement with the dense model on the held-out texts, on "
    "which the choice is based. KL - chosen: the difference from the chosen one, paired on the same texts. Decoding: "
    "speed-up over the dense model in {}; there is none if its interval contains 1."
)


def lead(report: Json) -> list[Block]:
    """What to ship, what was verified, and what beats a variant; the verdict itself is the title."""
    commands = {task: recommended.command(report, of_task) for task, of_task in _shipped(report)}
    blocks: list[Block] = [Words(report["failure"], kind="failure")] if report["failure"] else []
    for task, of_task in _shipped(report):
        blocks.append(Words(f"{task}: {of_task['words']}", kind="ship"))
        if commands[task]:
            blocks.append(Words("Make it with, with your paths in the place of names of files:", commands[task]))
        elif of_task["file"] in (report.get("whole") or {}):
            blocks.append(Words("It is in", of_task["file"]))
    blocks.append(Words(f"{status(report)}.", kind="status"))
    model = f" of {report['source']['name']}" if report["source"] else ""
    blocks.append(Words(f"{counted(len(report['variants']), 'variant')}{model}. {headline(report)}."))
    for of in beaten(report):
        command = "" if of.command in commands.values() else of.command
        blocks.append(Words(f"{of.variant} is {of.words}.", kind="quiet"))
        blocks += [Words("This makes the better file:", command)] if command else []
    code = report["exit_code"]
    return [*blocks, Words(f"Exit code {code}: {EXIT_WORDS[code]}.", kind="quiet")]


def failures(report: Json) -> list[Section]:
    """The checks that did not pass: why, and what to do."""
    sections = []
    for check in failed_checks(report):
        bisect = bisection(report, check["variant"]) if check["check"] == "parity" else None
        starts = f"The error starts at {diverges_first(bisect['first'])}." if bisect and bisect["first"] else ""
        blocks: list[Block] = [Items(check["reasons"]), *([Words(starts)] if starts else [])]
        blocks.append(Words(f"What to do: {advice(report, check)}"))
        sections.append(Section(f"{label(check['variant'])}: {check_label(check)}", blocks))
    return sections


def file_tables(report: Json) -> list[Table]:
    """The files that were measured, in a table for each task, by size."""
    by_task: dict[str, list[File]] = {}
    for file in sorted(measured_files(report), key=lambda file: file.bytes):
        by_task.setdefault(file.task or "", []).append(file)
    return [
        Table.of(
            f"Every file of {task}, by size" if task else "Every file, by size",
            COLUMNS,
            {file.title: file for file in files},
            "File",
        )
        for task, files in by_task.items()
    ]


def verdict_table(report: Json, anchors: Mapping[str, str]) -> Table:
    """A row for each subject, which leads to its section, and a column for each check."""
    checks = report["checks"]
    names = list(dict.fromkeys(map(check_label, checks)))
    verdicts = {(check["variant"], check_label(check)): check["verdict"] for check in checks}
    rows = [
        (
            Cell(label(subject), anchor=anchors.get(subject, "")),
            *(Cell(verdicts.get((subject, name), NOTHING)) for name in names),
        )
        for subject in dict.fromkeys(check["variant"] for check in checks)
    ]
    return Table("Verdicts", ("Subject", *names), rows)


def told(report: Json) -> list[str]:
    """Why checks were skipped, and the notes of others, each with its subject."""
    return [f"{who}: {words}" for who, words in remarks(report)]


def contents(report: Json) -> Iterator[Section]:
    """The sections of a page below its lead."""
    anchors = {name: f"variant-{index}" for index, name in enumerate(report["variants"])}
    if failed := failures(report):
        title = "What failed" if report["verdict"] == "failed" else "What was not judged"
        yield Section(title, failed, "failures")
    if report["variants"]:
        yield Section("Files", list(_files(report)), "files")
    if frontier := report.get("frontier"):
        words = Words(_FRONTIER.format(frontier["speedups_over"]))
        yield Section("What was chosen from", [words, frontier_table(frontier)], "frontier")
    for of in recommended.answers(report):
        rows = [["Prompt", of.prompt], *of.answers]
        yield Section(f"Answers: {of.task}", [Table("A held-out prompt, continued", ("Model", "Text"), rows)])
    notes: list[Block] = [Section("Remarks", [Items(told(report))])] if told(report) else []
    yield Section("Checks", [verdict_table(report, anchors), *notes])
    losses = loss_table({name: variant["quality"] for name, variant in report["variants"].items()})
    if losses is not None:
        yield Section("What was lost elsewhere", [losses], "elsewhere")
    for name, anchor in anchors.items():
        yield variant_section(report, name, anchor)
    yield Section("Provenance", list(_provenance(report)))


def _shipped(report: Json) -> list[tuple[str, Json]]:
    return list((report.get("recommended") or {}).items())


def _files(report: Json) -> Iterator[Block]:
    if size := (report["source"] or {}).get("bytes"):
        yield Words(f"The input, {report['source']['name']}, has {megabytes(size)}.")
    yield from file_tables(report)
    notes = [" ".join(column.explained for column in COLUMNS if column.explained)]
    if any(variant["speed"] or variant["quality"] for variant in report["variants"].values()):
        notes.append(_INTERVALS)
    if whole_rows(report):
        notes.append(_WHOLE)
    yield from (Words(note, kind="quiet") for note in (*notes, written_answers(report["tasks"])) if note)
    yield Words("Pictures of size against divergence, and of what is left in each layer:", "seap-export plot", "quiet")


def _provenance(report: Json) -> Iterator[Block]:
    if report["source"]:
        yield Words(f"Dense model: {report['source']['name']}, SHA-256", report["source"]["sha256"])
    if report["tasks"]:
        keys = list(dict.fromkeys(key for task in report["tasks"].values() for key in task))
        rows = [(name, *(_plain(task.get(key)) for key in keys)) for name, task in report["tasks"].items()]
        head = ("Task", *(key.replace("_", " ").capitalize() for key in keys))
        yield _folded("Seeds and splits of the tasks", Table("Seeds and splits of the tasks", head, rows))
    machine = [(part.capitalize(), _plain(value)) for part, value in report["machine"].items()]
    versions = Table("Versions", ("Package", "Version"), list(report["versions"].items()))
    yield _folded("Versions and machine", versions, Table("Machine", ("Part", "Value"), machine))
    if report["files"]:
        files = [(path, megabytes(file["bytes"]), file["sha256"]) for path, file in report["files"].items()]
        table = Table("SHA-256 of every file", ("File", "Size", "SHA-256"), files)
        yield _folded(f"{len(report['files'])} files with their SHA-256", table)


def _folded(title: str, *tables: Table) -> Section:
    return Section(title, tables, is_folded=True)


def _plain(value: Any) -> str:
    """A JSON value of any type as text; a dash for null."""
    if value is None:
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
