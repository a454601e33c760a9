"""The table of the files of an export: size, speed and quality of each, and what its columns mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from seap_export.cli.console import megabytes
from seap_export.cli.window import Table
from seap_export.pipeline.folder.names import HF
from seap_export.pipeline.request.measured import measured_title
from validation.reports.figures import divergence_of, figures_of_folder, in_ascii, main_figures
from validation.reports.numbers import percent
from validation.reports.reading import written_answers
from validation.reports.recommended import right_cell
from validation.reports.variants import parity_cell
from validation.reports.whole import SPEED_HEAD, rows, speed_cells
from validation.reports.yardstick import kl_in_words

if TYPE_CHECKING:
    from seap_export.api.results import ExportResult

_MOST_EXPLAINED = 6
#: What decides which file to ship, and what is known of it besides.
_DECIDING = ("file", "size", SPEED_HEAD[0], "right", "KL", "verdict")
_BESIDES = ("memory", "removed", "of whole", "parameters", "parity")


def files_table(result: ExportResult) -> Table:
    """A row for each file of the variants, for `hf` where there is no other, and for each whole model."""
    rows = [row for name in result.variants for row in _of_variant(name, result.described[name], result)]
    rows += [_of_whole(name, row, result) for name, row in measured_models(result).items()]
    _, *figures = measured_heads()
    head = [*_DECIDING, SPEED_HEAD[1], "dense right", "KL, +-", *figures, *_BESIDES]
    return Table(head, rows, first=len(_DECIDING))


def written(variant: Mapping[str, Any]) -> list[str]:
    """The names of a variant's folders except `hf`."""
    return [folder for folder in variant["bytes"] if folder != HF]


def measured_models(result: ExportResult) -> dict[str, Mapping[str, Any]]:
    """The whole models that were measured, by name; those that were refused are in the JSON alone."""
    return dict(rows({"whole": result.whole}))


def _of_variant(name: str, variant: Mapping[str, Any], result: ExportResult) -> Iterator[list[str]]:
    for folder in written(variant) or [HF]:
        precision = variant["formats"].get(folder, {}).get("precision", "")
        dense = variant["dense_bytes"].get(folder)
        yield [
            f"{name}/{folder}{'' if precision in folder else f' {precision}'}",
            *_decisive(f"{name}/{folder}", variant["bytes"][folder], figures_of_folder(variant, folder), result),
            megabytes((variant.get("memory_about") or {}).get(folder)),
            percent(variant["achieved_ratio"]),
            percent(variant["bytes"][folder] / dense) if dense else "-",
            f"{variant['num_parameters'] / 1e6:.1f} M",
            parity_cell([of for form, of in variant["parity"].items() if form.split(" in ")[0] == folder]).line,
        ]


def _of_whole(name: str, row: Mapping[str, Any], result: ExportResult) -> list[str]:
    """The whole model in the columns of the variants."""
    return [name, *_decisive(name, row["bytes"], row, result), megabytes(row.get("memory_about")), *["-"] * 4]


def _decisive(name: str, size: int, figures: Mapping[str, Any], result: ExportResult) -> list[str]:
    """The cells from the size to the speed-ups."""
    known = {file["name"]: file for of_task in result.recommended.values() for file in of_task["files"]}
    is_shipped = any(of_task["file"] == name for of_task in result.recommended.values())
    verdict = "ship" if is_shipped else "beaten" if name in known and known[name]["beaten"] else ""
    right, (rate, first_token) = right_cell(known.get(name)), speed_cells(figures)
    distance, *others = measured_cells(figures)
    kl, _, error = distance.partition(" +- ")
    decisive = [megabytes(size), rate.line, in_ascii(right.main), kl, verdict]
    return [*decisive, first_token.line, in_ascii(right.brief), error, *others]


def measured_heads() -> list[str]:
    """The headings of the columns of quality and speed."""
    return [figure.title for figure in main_figures("worse", "faster")]


def measured_cells(variant: Mapping[str, Any]) -> list[str]:
    """The cells of a variant in the columns of quality and speed; a dash if not measured."""
    return [figure.cell(variant).line for figure in main_figures("worse", "faster")]


def legend(result: ExportResult) -> Iterator[tuple[str, str]]:
    """The lines that explain columns, each after the title of its column."""
    variants, manifest = result.described.values(), None if result.report is None else result.report.manifest
    if manifest is not None and (answers := written_answers(manifest.tasks)):
        yield "file", answers
    if names := ", ".join(measured_models(result)):
        yield "file", f"{names}: the whole model, merely rounded, and kept if it is what to ship."
    yield "right", "Right: how many held-out questions the file answers rightly; in brackets, the 95% interval."
    compared = {name: variant["quality"] for name, variant in result.described.items() if variant["quality"]}
    if compared:
        what = measured_title(next(iter(compared.values())))
        yield "KL", f"KL: distance of {what} from the dense model on held-out texts, nats per token."
    for name, quality in list(compared.items())[:_MOST_EXPLAINED]:
        if (divergence := divergence_of(quality)) is not None:
            yield "KL", f"  {name}: {kl_in_words(divergence)[0]}"
    if speeds := [variant["speed"] for variant in variants if variant["speed"]]:
        cell = speeds[0]["dense"][0]
        dense = f"{cell['decode_ms_per_token']:.1f} ms a token, {cell['prefill_ms']:.0f} ms for {cell['depth']} tokens"
        yield "decode", f"Decode, prefill: times the dense model's speed ({dense}); no speed-up if it may be 1."
    yield "memory", "Memory: at the peak of a prompt of 128 tokens, estimated; the program around it is extra."
    yield "of whole", "Of whole: the size as a share of the whole model's, written in the same way."
    where = ", ".join(dict.fromkeys(of["runtime"] for variant in variants for of in variant["parity"].values()))
    yield "parity", f"Parity: in {where}, against torch; max abs is the largest difference of a logit."
