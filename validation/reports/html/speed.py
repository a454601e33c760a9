"""The speed and size of a variant with their limits, and the measured times."""

from __future__ import annotations

from validation.reports.html.charts import JudgedFigure, intervals
from validation.reports.html.markup import Markup, join, pill, table, tag
from validation.reports.numbers import NOTHING, figure, milliseconds, percent
from validation.reports.reading import Json

__all__ = ["speed_section"]

_RUNTIMES = {"onnxruntime": "ONNX Runtime"}
_WORDS = {"decode_speedup": "decode", "prefill_speedup": "prefill", "bytes_ratio": "size on disk"}
_SIZE = "bytes_ratio"  # the only figure with an upper limit; it is not a speed-up
_LIMITS = ("Figure", "At", "Result", "Found", "JudgedFigure", "Limit")
_SPEEDUPS = ("At", "Figure", "Speed-up", "JudgedFigure", "Ideal", "Reached")
_TIMES = ("At", "Prefill, dense", "Prefill", "Decode a token, dense", "Decode a token")


def speed_section(speed: Json | None) -> Markup:
    """A variant's section on speed; empty if it was not measured."""
    if speed is None:
        return Markup()
    spans = [_interval(verdict) for verdict in speed["verdicts"] if verdict["figure"] != _SIZE]
    rows, times = [_row(verdict) for verdict in speed["verdicts"]], _times(speed)
    parts: list[Markup] = [tag("h3", f"Speed and size compared with the dense model in {_runtime(speed)}")]
    if spans:
        parts.append(intervals("Speed-up over the dense model", "times as fast", spans))
    if rows:
        parts.append(table("Speed and size with their limits", _LIMITS, rows))
    if times:
        parts.append(table("Times", _TIMES, times))
    speedups = _speedups(speed)
    if speedups:
        parts.append(table("Speed-ups, and what the smaller shapes would allow at best", _SPEEDUPS, speedups))
    return join(parts)


def _runtime(speed: Json) -> str:
    """What ran both; reports from before there were several do not say it."""
    name: str = speed.get("runtime", "onnxruntime")
    return _RUNTIMES.get(name, name)


def _interval(verdict: Json) -> JudgedFigure:
    where = ", ".join(part for part in (_WORDS[verdict["figure"]], _cell(verdict["batch"], verdict["depth"])) if part)
    words = f"{where}: {figure(verdict['found'])}×"
    return JudgedFigure(words, verdict["found"], verdict["low"], verdict["high"], verdict["limit"], verdict["verdict"])


def _row(verdict: Json) -> tuple[str, ...]:
    """A figure and its limit; a figure that is known exactly has no interval."""
    known = verdict["low"] is not None and verdict["high"] is not None and verdict["low"] < verdict["high"]
    interval = f"{figure(verdict['low'])} to {figure(verdict['high'])}" if known else NOTHING
    limit = f"{'≤' if verdict['figure'] == _SIZE else '≥'} {figure(verdict['limit'])}×"
    where = _cell(verdict["batch"], verdict["depth"]) or NOTHING
    return _WORDS[verdict["figure"]], where, pill(verdict["verdict"]), f"{figure(verdict['found'])}×", interval, limit


def _times(speed: Json) -> list[tuple[str, ...]]:
    """The times of each case that both models ran."""
    dense = {(cell["batch"], cell["depth"]): cell for cell in speed["dense"]}
    pairs = [
        (dense.get((variant_cell["batch"], variant_cell["depth"])), variant_cell) for variant_cell in speed["variant"]
    ]
    return [
        (
            _cell(variant_cell["batch"], variant_cell["depth"]),
            *(
                milliseconds(cell[key])
                for key in ("prefill_ms", "decode_ms_per_token")
                for cell in (dense_cell, variant_cell)
            ),
        )
        for dense_cell, variant_cell in pairs
        if dense_cell is not None
    ]


def _speedups(speed: Json) -> list[tuple[str, ...]]:
    """A row for each case and figure whose ideal is known."""
    return [
        (
            _cell(cell["batch"], cell["depth"]),
            what,
            f"{figure(cell[f'{what}_speedup'])}×",
            _span(cell[f"{what}_speedup_low"], cell[f"{what}_speedup_high"]),
            f"{figure(cell[f'{what}_ideal_speedup'])}×",
            percent(cell[f"{what}_share_of_ideal"]),
        )
        for cell in speed["variant"]
        for what in ("decode", "prefill")
        if f"{what}_ideal_speedup" in cell
    ]


def _span(low: float | None, high: float | None) -> str:
    return NOTHING if low is None or high is None else f"{figure(low)} to {figure(high)}"


def _cell(batch: int | None, depth: int | None) -> str:
    """A case of a speed run in words."""
    parts = ["" if batch is None else f"batch {batch}", "" if depth is None else f"{depth} tokens"]
    return ", ".join(part for part in parts if part)
