"""The table of the files of an export: size, speed and quality of each, and what its columns mean."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from seap_export.cli.window import Table
from seap_export.pipeline.request.measured import measured_title
from validation.reports.document import in_ascii
from validation.reports.figures import MAIN, divergence_of
from validation.reports.files import BESIDES, COLUMNS, DECIDING, RIGHT, File, measured_files
from validation.reports.reading import written_answers
from validation.reports.yardstick import kl_in_words

if TYPE_CHECKING:
    from seap_export.pipeline.gate.report import ValidationReport

_MOST_EXPLAINED = 6


def files_table(report: ValidationReport, names: Collection[str]) -> Table:
    """A row for each file of some variants, for `hf` where there is no other, and for each whole model.

    What decides stands first and alone; what belongs to it, such as errors, comes after.
    """
    variants = {name: report.variants[name] for name in names}
    parts = {"variants": variants, "whole": report.whole, "recommended": report.recommended}
    first, *others = (column.title for column in BESIDES)
    head = ["file", *(column.title for column in DECIDING), first, "dense right", "KL, +-", *others]
    return Table(head, [_row(file) for file in measured_files(parts)], first=len(DECIDING) + 1)


def _row(file: File) -> list[str]:
    decisive = [in_ascii(column.cell(file).main).partition(" +- ") for column in DECIDING]
    error = next(error for column, (*_, error) in zip(DECIDING, decisive, strict=True) if column.title == "KL")
    first, *others = (column.cell(file).line for column in BESIDES)
    return [file.title, *(main for main, *_ in decisive), first, in_ascii(RIGHT.cell(file).brief), error, *others]


def measured_heads() -> list[str]:
    """The headings of the columns of quality and speed."""
    return [figure.title for figure in MAIN]


def measured_cells(variant: Mapping[str, Any]) -> list[str]:
    """The cells of a variant in the columns of quality and speed; a dash if not measured."""
    return [figure.cell(variant).line for figure in MAIN]


def legend(report: ValidationReport) -> Iterator[tuple[str, str]]:
    """The lines that explain columns, each after the title of its column."""
    variants, manifest = report.variants, report.manifest
    if manifest is not None and (answers := written_answers(manifest.tasks)):
        yield "file", answers
    if names := ", ".join(name for name, row in report.whole.items() if not row["refusal"]):
        yield "file", f"{names}: the whole model, merely rounded, and kept if it is what to ship."
    compared = {name: variant["quality"] for name, variant in variants.items() if variant["quality"]}
    if compared:
        what = measured_title(next(iter(compared.values())))
        yield "KL", f"KL: distance of {what} from the dense model on held-out texts, nats per token."
    for name, quality in list(compared.items())[:_MOST_EXPLAINED]:
        if (divergence := divergence_of(quality)) is not None:
            learnt = "It has learnt right answers, which takes it away from the dense model."
            yield "KL", f"  {name}: {learnt if variants[name]['learning'] else kl_in_words(divergence)[0]}"
    if speeds := [variant["speed"] for variant in variants.values() if variant["speed"]]:
        cell = speeds[0]["dense"][0]
        dense = f"{cell['decode_ms_per_token']:.1f} ms a token, {cell['prefill_ms']:.0f} ms for {cell['depth']} tokens"
        yield "decode", f"Decode, prefill: times the dense model's speed ({dense}); no speed-up if it may be 1."
    yield from ((column.title, column.explained) for column in COLUMNS if column.explained)
