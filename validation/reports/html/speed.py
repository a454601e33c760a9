"""The speed and size of a variant with their limits, and the measured times."""

from __future__ import annotations

from validation.reports.html.charts import Interval, intervals
from validation.reports.html.markup import Markup, join, pill, table, tag
from validation.reports.numbers import NOTHING, figure, milliseconds, percent
from validation.reports.reading import Json

__all__ = ["speed_section"]

_RUNTIMES = {"onnxruntime": "ONNX Runtime"}
_WORDS = {"decode_speedup": "decode", "prefill_speedup": "prefill", "bytes_ratio": "size on disk"}
_SIZE = "bytes_ratio"  # the only figure with an upper limit; it is not a speed-up
_LIMITS = ("Figure", "At", "Result", "Found", "Interval", "Limit")
_SPEEDUPS = ("At", "Figure", "Speed-up", "Interval", "Ideal", "Reached")
_TIMES = ("At", "Prefill, dense", "Prefill", "Decode a token, dense", "Decode a token")


def speed_section(speed: Json | None) -> Markup:
    """A variant's section on speed; empty if it was not measured."""
    if speed is None:
        return Markup()
    spans = [_interval(own) for own in speed["verdicts"] if own["figure"] != _SIZE]
    rows, times = [_row(own) for own in speed["verdicts"]], _times(speed)
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


def _interval(own: Json) -> Interval:
    where = ", ".join(part for part in (_WORDS[own["figure"]], _cell(own["batch"], own["depth"])) if part)
    words = f"{where}: {figure(own['found'])}×"
    return Interval(words, own["found"], own["low"], own["high"], own["limit"], own["verdict"])


def _row(own: Json) -> tuple[str, ...]:
    """A figure and its limit; a figure that is known exactly has no interval."""
    known = own["low"] is not None and own["high"] is not None and own["low"] < own["high"]
    interval = f"{figure(own['low'])} to {figure(own['high'])}" if known else NOTHING
    limit = f"{'≤' if own['figure'] == _SIZE else '≥'} {figure(own['limit'])}×"
    where = _cell(own["batch"], own["depth"]) or NOTHING
    return _WORDS[own["figure"]], where, pill(own["verdict"]), f"{figure(own['found'])}×", interval, limit


def _times(speed: Json) -> list[tuple[str, ...]]:
    """The times of each case that both models ran."""
    dense = {(cell["batch"], cell["depth"]): cell for cell in speed["dense"]}
    pairs = [(dense.get((own["batch"], own["depth"])), own) for own in speed["variant"]]
    return [
        (
            _cell(own["batch"], own["depth"]),
            *(milliseconds(cell[key]) for key in ("prefill_ms", "decode_ms_per_token") for cell in (other, own)),
        )
        for other, own in pairs
        if other is not None
    ]


def _speedups(speed: Json) -> list[tuple[str, ...]]:
    """A row for each case and figure whose ideal is known."""
    return [
        (
            _cell(own["batch"], own["depth"]),
            what,
            f"{figure(own[f'{what}_speedup'])}×",
            _span(own[f"{what}_speedup_low"], own[f"{what}_speedup_high"]),
            f"{figure(own[f'{what}_ideal_speedup'])}×",
            percent(own[f"{what}_share_of_ideal"]),
        )
        for own in speed["variant"]
        for what in ("decode", "prefill")
        if f"{what}_ideal_speedup" in own
    ]


def _span(low: float | None, high: float | None) -> str:
    return NOTHING if low is None or high is None else f"{figure(low)} to {figure(high)}"


def _cell(batch: int | None, depth: int | None) -> str:
    """A case of a speed run in words."""
    parts = ["" if batch is None else f"batch {batch}", "" if depth is None else f"{depth} tokens"]
    return ", ".join(part for part in parts if part)
