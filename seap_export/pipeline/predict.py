"""Answers a table of inputs with a variant that has learnt a job, and goes on where a run was broken off."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from seap_export.common.checksums import SUMS
from seap_export.common.hashing import sha256_file, sha256_json
from seap_export.common.templates import render
from seap_export.corpus import text_digest
from seap_export.corpus.readers import place_of, read_records
from seap_export.errors import InputError, SeapError, UsageError
from seap_export.pipeline.folder.contents import Variant
from seap_export.pipeline.folder.names import PLAN
from seap_export.pipeline.folder.outputs import write_report
from seap_export.pipeline.progress import Progress
from seap_export.runtime import Generator
from validation.estimate import wilson

#: The fields of the output with the answer, and with the probability of a label among all labels.
PREDICTION, CONFIDENCE = "prediction", "confidence"
#: An answer, whether it has ended, and its confidence.
_Answer = tuple[str, bool, float | None]
#: What the output may be.
_TABLE, _LINES = ".csv", ".jsonl"
#: Wrong answers that are shown.
_MOST_SHOWN = 3


@dataclass(frozen=True)
class Predictions:
    """The answers to a table of inputs, and how many are right.

    Attributes:
        rows: How many inputs were answered.
        fresh: How many of them in this run; the others are those of a run that was broken off.
        unfinished: How many answers have all the tokens that were allowed, without an end.
        learnt: How many inputs the variant has learnt with these answers, as far as the export beside it tells.
        right: How many answers to the others are right; None: the table does not say which are.
        wrong: The first wrong answers: the row's place, the answer, and the right one.
    """

    rows: int
    fresh: int
    unfinished: int
    learnt: int
    right: int | None
    wrong: tuple[tuple[str, str, str], ...]

    @property
    def judged(self) -> int:
        """How many answers are compared with the right ones: those to inputs that were not learnt."""
        return 0 if self.right is None else self.rows - self.learnt

    @property
    def share(self) -> float | None:
        """The share of right ones of these; None: there are none."""
        return None if self.right is None else self.right / self.judged

    def to_json(self) -> dict[str, Any]:
        figures: dict[str, Any] = {"rows": self.rows, "fresh": self.fresh, "unfinished": self.unfinished}
        if self.share is None:
            return {**figures, "learnt": self.learnt}
        interval = list(wilson(self.share, self.judged))
        wrong = [dict(zip(("row", PREDICTION, "answer"), each, strict=True)) for each in self.wrong]
        judged = {"judged": self.judged, "right": self.right, "share": self.share, "interval": interval}
        return {**figures, "learnt": self.learnt, **judged, "wrong": wrong}


def predict(
    generator: Generator,
    folder: Path,
    inputs: Path,
    out: Path,
    progress: Progress,
    *,
    max_new_tokens: int,
    batch_size: int,
    is_judged: bool,
    force: bool,
) -> Predictions:
    """Answers every record of a file, and writes the records with their answers.

    What is answered lies in OUT.part until all is, and the same call goes on from there.

    Args:
        generator: The variant, opened.
        folder: The folder that it was opened from.
        inputs: A file that `read_records` reads.
        out: A .csv or .jsonl file.
        batch_size: How many records are answered at once.
        is_judged: Whether every record must have its right answer.

    Raises:
        UsageError: The variant has learnt no job, or `out` cannot be written.
        InputError: A record lacks a field, or is too long.
    """
    suffix = out.suffix.lower()
    if suffix not in (_TABLE, _LINES):
        raise UsageError(f"{out} ends in {out.suffix or 'nothing'!r}; write answers to a {_TABLE} or {_LINES} file")
    with write_report(out, force=force) as target:
        records = list(read_records(inputs))
        prompts = _prompts(generator, inputs, records, max_new_tokens)
        expected = _expected(generator, inputs, records, is_judged=is_judged)
        learnt = _learnt(generator, folder, records, expected or ())
        if is_judged and len(learnt) == len(records):
            raise InputError(f"{inputs}: the variant has learnt all of these records; judge it by others")
        about = [_identity(folder), sha256_file(inputs), max_new_tokens]
        with _part(Path(f"{out}.part"), sha256_json(about)) as (answers, part):
            known = len(answers)
            # together go texts of a length, the longest first: too little memory shows at once
            left = sorted(set(range(len(records))) - set(answers), key=lambda row: (-len(prompts[row]), row))
            with progress.step(f"answering {inputs.name}", len(left), "rows") as advance:
                for start in range(0, len(left), batch_size):
                    rows = left[start : start + batch_size]
                    completions = generator.complete([records[row] for row in rows], max_new_tokens)
                    for row, completion in zip(rows, completions, strict=True):
                        is_whole = completion.stop not in ("length", "context")
                        answers[row] = completion.text.rstrip(), is_whole, completion.confidence
                        part.write(json.dumps([row, *answers[row]]) + "\n")
                        advance(row)
                    part.flush()
            texts = [answers[row][0] for row in range(len(records))]
            fields = [_fields(answers[row]) for row in range(len(records))]
            answered = [{**record, **of} for record, of in zip(records, fields, strict=True)]
            (_write_table if suffix == _TABLE else _write_lines)(target, answered)
    Path(f"{out}.part").unlink()
    unfinished = sum(not is_whole for _, is_whole, _ in answers.values())
    return Predictions(
        len(records), len(records) - known, unfinished, len(learnt), *_judged(inputs, texts, expected, learnt)
    )


def _prompts(
    generator: Generator, inputs: Path, records: Sequence[Mapping[str, Any]], max_new_tokens: int
) -> list[list[int]]:
    """The tokens of each record's prompt, all of which are checked before the first is answered."""
    if generator.job is None:
        raise UsageError(
            "this variant has learnt no job, so nothing says how a record is asked; answer one prompt with "
            "'seap-export generate', or export a task as NAME=FILE:INPUT:ANSWER"
        )
    prompts = []
    for number, record in enumerate(records, start=1):
        try:
            if taken := sorted({PREDICTION, CONFIDENCE} & record.keys()):
                raise InputError(f"it has a field {taken[0]!r}, which is that of the answers; rename it")
            prompts.append(generator.token_ids(record))
            generator.check(prompts[-1], max_new_tokens)
        except InputError as error:
            raise InputError(f"{inputs}, {place_of(inputs, number)}: {error}") from error
    return prompts


def _identity(folder: Path) -> str:
    """What tells a variant from others: its list of checksums, or its path if it has none."""
    return sha256_file(folder / SUMS) if (folder / SUMS).is_file() else str(folder.resolve())


@contextmanager
def _part(path: Path, identity: str) -> Iterator[tuple[dict[int, _Answer], TextIO]]:
    """The answers that an earlier run has left, by row, and the file that more are added to."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []  # without a last line that was torn
    answers = dict[int, _Answer]()
    with suppress(ValueError, TypeError):  # a damaged file: answer all again
        if lines and lines[0] == identity.encode():
            answers = {row: (text, *more) for row, text, *more in map(json.loads, lines[1:])}
    whole = [identity, *(json.dumps([row, *answer]) for row, answer in answers.items())]
    with path.open("w", encoding="utf-8", newline="\n") as part:
        part.write("".join(f"{line}\n" for line in whole))
        part.flush()
        yield answers, part


def _fields(answer: _Answer) -> dict[str, Any]:
    text, _, confidence = answer
    return {PREDICTION: text} | ({} if confidence is None else {CONFIDENCE: round(confidence, 4)})


def _write_table(target: Path, records: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(name for record in records for name in record))
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_cell(record.get(name)) for name in names] for record in records)


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _write_lines(target: Path, records: Sequence[Mapping[str, Any]]) -> None:
    with target.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _expected(
    generator: Generator, inputs: Path, records: Sequence[Mapping[str, Any]], *, is_judged: bool
) -> list[str] | None:
    """The right answer to each record; None: not all records have one."""
    field, expected = "" if generator.job is None else generator.job.answer, list[str]()
    if not field:
        if is_judged:
            raise UsageError("--min-accuracy has no effect: this variant's job has no single field with the answer")
        return None
    for number, record in enumerate(records, start=1):
        try:
            expected.append(render(f"{{{field}}}", record).strip())
        except InputError as error:
            if is_judged:
                raise InputError(f"{inputs}, {place_of(inputs, number)}: {error}") from error
            return None
    return expected


def _learnt(
    generator: Generator, folder: Path, records: Sequence[Mapping[str, Any]], expected: Sequence[str]
) -> set[int]:
    """The rows that the variant has learnt with these answers; none if its export does not lie beside it."""
    job, variant, known = generator.job, Variant(folder if (folder / PLAN).is_file() else folder.parent), set[str]()
    with suppress(SeapError, OSError):
        known = {digest for record in variant.records or () for digest in record.calibration_texts}
    return {
        row
        for row, (record, right) in enumerate(zip(records, expected, strict=bool(expected)))
        if job is not None and text_digest(f"{job.asked(record)} {right}{job.end}") in known
    }


def _judged(
    inputs: Path, answers: Sequence[str], expected: Sequence[str] | None, learnt: set[int]
) -> tuple[int | None, tuple[tuple[str, str, str], ...]]:
    """How many answers are right, and the first wrong ones, each with the place of its record and the right one."""
    if expected is None or len(learnt) == len(answers):
        return None, ()
    judged = sorted(set(range(len(answers))) - learnt)
    wrong = [row for row in judged if answers[row] != expected[row]]
    shown = tuple((place_of(inputs, row + 1), answers[row], expected[row]) for row in wrong[:_MOST_SHOWN])
    return len(judged) - len(wrong), shown
