"""The measured files of a report: one row for each, and one list of columns for every table of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from validation.reports.document import Cell, Column
from validation.reports.figures import QUALITY, SPEED, Figure, divergence_of, figures_of_folder
from validation.reports.numbers import NOTHING, count, figure, megabytes, milliseconds, percent
from validation.reports.reading import Json, worst
from validation.reports.recommended import right_cell
from validation.reports.speedups import speedups


@dataclass(frozen=True)
class File:
    """A folder of a variant, or a whole model that was measured beside the variants.

    Attributes:
        owner: The name of the variant, or of the whole model.
        figures: Its speed and its divergence, each None if it was not measured.
        told: What the recommendation says of it; None: it was not compared.
        described: The description of the variant; None: it is a whole model.
        task: The task or mixture; None: it is not known.
        is_shipped: Whether it is what to ship.
    """

    name: str
    title: str
    owner: str
    folder: str
    bytes: int
    dense_bytes: int | None
    memory: int | None
    figures: Json
    told: Json | None
    described: Json | None
    task: str | None
    is_shipped: bool


def measured_files(report: Json) -> list[File]:
    """Each folder of the variants, `hf` only where there is no other or it was measured; then the whole models."""
    told = {file["name"]: file for of_task in (report.get("recommended") or {}).values() for file in of_task["files"]}
    shipped = {of_task["file"] for of_task in (report.get("recommended") or {}).values()}
    return [
        *(file for name, variant in report["variants"].items() for file in _of_variant(name, variant, told, shipped)),
        *(_of_whole(name, row, told, shipped) for name, row in whole_rows(report).items()),
    ]


def whole_rows(report: Json) -> dict[str, Json]:
    """The whole models that were measured, by name; those that were refused are in the report alone."""
    return {name: row for name, row in (report.get("whole") or {}).items() if not row["refusal"]}


def _of_variant(owner: str, variant: Json, told: Mapping[str, Json], shipped: set[str]) -> Iterator[File]:
    for folder, size in variant["bytes"].items():
        name, figures = f"{owner}/{folder}", figures_of_folder(variant, folder)
        if folder == "hf" and len(variant["bytes"]) > 1 and not any(figures.values()):
            continue
        precision = variant["formats"].get(folder, {}).get("precision", "")
        yield File(
            name,
            name if precision in folder else f"{name} {precision}",
            owner,
            folder,
            size,
            variant["dense_bytes"].get(folder),
            (variant.get("memory_about") or {}).get(folder),
            figures,
            told.get(name),
            variant,
            variant["task"],
            name in shipped,
        )


def _of_whole(name: str, row: Json, told: Mapping[str, Json], shipped: set[str]) -> File:
    figures = {"speed": row["speed"], "quality": divergence_of(row["quality"])}
    of_files = row["bytes"], None, row.get("memory_about"), figures, told.get(name)
    return File(name, name, name, str(row.get("folder") or ""), *of_files, None, row["task"], name in shipped)


def _result(file: File) -> Cell:
    beyond = "beyond the limits" if file.told is not None and not file.told["within_limits"] else ""
    result = "ship" if file.is_shipped else "beaten" if file.told is not None and file.told["beaten"] else ""
    return Cell(result or beyond, beyond if result else "")


def _tokens_per_second(figures: Json) -> Cell:
    decode = speedups(figures["speed"], "decode")
    return Cell(figure(1e3 * decode[0].batch / decode[0].ms) if decode else NOTHING)


def _first_token(figures: Json) -> Cell:
    prefill = speedups(figures["speed"], "prefill")
    return Cell(milliseconds(prefill[0].ms) if prefill else NOTHING)


def _removed(file: File) -> Cell:
    return Cell(NOTHING if file.described is None else percent(file.described["achieved_ratio"]))


def _parameters(file: File) -> Cell:
    return Cell(NOTHING if file.described is None else count(file.described["num_parameters"]))


def _parity(file: File) -> Cell:
    by_form = {} if file.described is None else file.described["parity"]
    return parity_cell([of for form, of in by_form.items() if form.split(" in ")[0] == file.folder])


def parity_cell(parities: list[Json]) -> Cell:
    """The verdict and the largest error of the only comparison; of several, the verdict of all and of each."""
    if not parities:
        return Cell(NOTHING)
    if len(parities) > 1:
        return Cell(
            worst([comparison["verdict"] for comparison in parities]),
            ", ".join(f"{comparison['runtime']} {comparison['verdict']}" for comparison in parities),
        )
    (parity,) = parities
    return Cell(parity["verdict"], f"max abs {figure(parity['max_abs'])}")


def _of_figures(row: Figure) -> Column[File]:
    return Column(row.title, lambda file: row.cell(file.figures))


RIGHT = Column[File](
    "right",
    lambda file: right_cell(file.told),
    explained="Right: how many held-out questions the file answers rightly; in brackets, the 95% interval.",
)
KL, *_OTHER_QUALITY = (_of_figures(row) for row in QUALITY if row.is_main)
VERDICT = Column[File]("verdict", _result)
#: What decides which file to ship, then what is known of it besides.
DECIDING = (
    Column[File]("size", lambda file: Cell(megabytes(file.bytes))),
    Column[File]("tokens/s", lambda file: _tokens_per_second(file.figures)),
    RIGHT,
    KL,
    VERDICT,
)
BESIDES = (
    Column[File]("first token", lambda file: _first_token(file.figures)),
    *_OTHER_QUALITY,
    *(_of_figures(row) for row in SPEED),
    Column[File](
        "memory",
        lambda file: Cell(megabytes(file.memory)),
        explained="Memory: at the peak of a prompt of 128 tokens, estimated; the program around it is extra.",
    ),
    Column[File]("removed", _removed),
    Column[File](
        "of whole",
        lambda file: Cell(percent(file.bytes / file.dense_bytes) if file.dense_bytes else NOTHING),
        explained="Of whole: the size as a share of the whole model's, written in the same way.",
    ),
    Column[File]("parameters", _parameters),
    Column[File]("parity", _parity, explained="Parity: against torch; max abs is the largest difference of a logit."),
)
COLUMNS = (*DECIDING, *BESIDES)
