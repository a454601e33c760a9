"""The table of variants as cells of text, one row per variant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from validation.reports.numbers import NOTHING, count, figure, megabytes, percent, share, times
from validation.reports.reading import Json, speedups

__all__ = ["TableCell", "cells", "head", "verdict_of"]

_BEFORE = ("Result", "Task", "Removed", "Parameters", "safetensors")
_AFTER = ("Parity", "KL to dense", "Decode", "Prefill")


@dataclass(frozen=True)
class TableCell:
    """The main text of a cell, with details in smaller print."""

    main: str
    details: tuple[str, ...] = ()


def verdict_of(report: Json, variant: str | None) -> str:
    """The verdict of a variant or of the folder: failed if one check failed, skipped if all were."""
    verdicts = {check["verdict"] for check in report["checks"] if check["variant"] == variant}
    return next((verdict for verdict in ("failed", "passed") if verdict in verdicts), "skipped")


def head(report: Json) -> tuple[str, ...]:
    """The columns of the table, with one for each folder beside `hf`."""
    return (*_BEFORE, *_folders(report).values(), *_AFTER)


def _folders(report: Json) -> dict[str, str]:
    """The folders beside `hf` of any variant, and what they are called."""
    titles: dict[str, str] = {}
    for variant in report["variants"].values():
        for folder in variant["bytes"]:
            format = variant["formats"].get(folder)
            if folder != "hf" and (format is not None or folder not in titles):
                titles[folder] = format["title"] if format is not None and format["format"] == folder else folder
    return titles


def cells(report: Json, name: str) -> list[TableCell]:
    """A variant's row, with the columns of `head`."""
    variant = report["variants"][name]
    removed, requested = percent(variant["achieved_ratio"]), variant["requested_ratio"]
    parameters = variant["num_parameters"]
    return [
        TableCell(verdict_of(report, name)),
        TableCell(variant["task"] or NOTHING, _known(variant["method"])),
        TableCell(removed, () if requested is None else (f"{percent(requested)} asked",)),
        TableCell(count(parameters), _known(_of(parameters, variant["dense_parameters"], count))),
        *(_size(variant, folder) for folder in ("hf", *_folders(report))),
        _parity(list(variant["parity"].values())),
        _divergence(variant["quality"]),
        *(_speedup(variant["speed"], what) for what in ("decode", "prefill")),
    ]


def _size(variant: Json, folder: str) -> TableCell:
    size, dense = variant["bytes"].get(folder), variant["dense_bytes"].get(folder)
    if size is None:
        return TableCell(NOTHING)
    written = variant["formats"].get(folder)
    return TableCell(
        megabytes(size), _known(None if written is None else written["precision"], _of(size, dense, megabytes))
    )


def _known(*details: str | None) -> tuple[str, ...]:
    """The details that are known."""
    return tuple(detail for detail in details if detail)


def _of(part: int | None, whole: int | None, written: Callable[[int], str]) -> str:
    """The share of the dense model's value; "" if one of the two is unknown."""
    return "" if part is None or not whole else f"{share(part, whole)} of {written(whole)}"


def _parity(parities: list[Json]) -> TableCell:
    """The only comparison, or the verdict of each."""
    if not parities:
        return TableCell(NOTHING)
    if len(parities) > 1:
        failed = [comparison for comparison in parities if comparison["verdict"] != "passed"]
        return TableCell(
            "failed" if failed else "passed",
            tuple(f"{comparison['runtime']} {comparison['verdict']}" for comparison in parities),
        )
    (parity,) = parities
    max_abs, mean_kl = figure(parity["max_abs"]), figure(parity["mean_kl_nats"])
    details = f"max abs {max_abs}", f"KL {mean_kl}", f"top-1 {percent(parity['top1_agreement'])}"
    return TableCell(parity["verdict"], details)


def _divergence(quality: Json | None) -> TableCell:
    """The mean KL of the ONNX file if it was measured, otherwise that of the model in hf/, or of another folder."""
    divergence = (quality or {}).get("divergence") or {}
    form = next((form for form in ("onnx", "hf", *divergence) if form in divergence), None)
    if quality is None or form is None:
        return TableCell(NOTHING)
    figures, limit = divergence[form], (quality.get("limits") or {}).get("max_kl_nats")
    perplexity = f"perplexity {figure(figures['perplexity'])}, dense {figure(figures['dense_perplexity'])}"
    agreement = f"top-1 {percent(figures['top1_agreement'])}"
    bound = None if limit is None else f"limit {figure(limit)}"
    return TableCell(figure(figures["mean_kl_nats"]), _known(form, agreement, perplexity, bound))


def _speedup(speed: Json | None, what: str) -> TableCell:
    """The speed-up over the dense model, and the share of the ideal one that it reaches, where that is known."""
    shares_of_ideal = [] if speed is None else [cell.get(f"{what}_share_of_ideal") for cell in speed["variant"]]
    shares = [percent(value) for value in shares_of_ideal if value is not None]
    return TableCell(times(speedups(speed, what)), (f"{', '.join(shares)} of the ideal",) if shares else ())
