"""The speed and size of a variant with their limits, and the measured times."""

from __future__ import annotations

from validation.reports.html.charts import JudgedFigure, intervals
from validation.reports.html.markup import Markup, join, pill, table, tag
from validation.reports.numbers import NOTHING, figure, milliseconds, percent, times
from validation.reports.reading import Json
from validation.reports.speedups import Kind, MeasuredSpeedup, interval_in_words, speedups

_RUNTIMES = {"onnxruntime": "ONNX Runtime"}
_WORDS = {"decode_speedup": "decode", "prefill_speedup": "prefill", "bytes_ratio": "size on disk"}
_SIZE = "bytes_ratio"  # the only figure with an upper limit; it is not a speed-up
_LIMITS = ("Figure", "At", "Result", "Measured", "Interval", "Limit")
_CASES = ("At", "Figure", "Dense model", "This variant", "Speed-up", "Interval", "Ideal", "Reached")
_KINDS: tuple[Kind, ...] = ("decode", "prefill")


def speed_section(speed: Json | None) -> Markup:
    """A variant's section on speed; empty if it was not measured."""
    if speed is None:
        return Markup()
    spans = [_interval(verdict) for verdict in speed["verdicts"] if verdict["figure"] != _SIZE]
    limits = [_row(verdict) for verdict in speed["verdicts"]]
    cases = [_case(kind, speedup) for kind in _KINDS for speedup in speedups(speed, kind)]
    parts: list[Markup] = [tag("h3", f"Speed and size compared with the dense model in {_runtime(speed)}")]
    if spans:
        parts.append(intervals("Speed-up over the dense model", "times as fast", spans))
    if limits:
        parts.append(table("Speed and size with their limits", _LIMITS, limits))
    if cases:
        parts.append(table("Times, speed-ups, and what the smaller shapes would allow at best", _CASES, cases))
    return join(parts)


def _runtime(speed: Json) -> str:
    """What ran both; reports from before there were several do not say it."""
    name: str = speed.get("runtime", "onnxruntime")
    return _RUNTIMES.get(name, name)


def _interval(verdict: Json) -> JudgedFigure:
    where = ", ".join(part for part in (_WORDS[verdict["figure"]], _at(verdict["batch"], verdict["depth"])) if part)
    words = f"{where}: {times(verdict['found'])}×"
    return JudgedFigure(words, verdict["found"], verdict["low"], verdict["high"], verdict["limit"], verdict["verdict"])


def _row(verdict: Json) -> tuple[str, ...]:
    """A figure and its limit; a figure that is known exactly has no interval."""
    is_size = verdict["figure"] == _SIZE
    interval = NOTHING if is_size else interval_in_words(verdict["low"], verdict["high"])
    limit = f"{'≤' if is_size else '≥'} {figure(verdict['limit'])}×"
    where = _at(verdict["batch"], verdict["depth"]) or NOTHING
    return _WORDS[verdict["figure"]], where, pill(verdict["verdict"]), f"{times(verdict['found'])}×", interval, limit


def _case(kind: Kind, speedup: MeasuredSpeedup) -> tuple[str, ...]:
    """A row: the times of both models in a case, and the speed-up."""
    ideal = NOTHING if speedup.ideal is None else f"{times(speedup.ideal)}×"
    figures = milliseconds(speedup.dense_ms), milliseconds(speedup.ms), speedup.words, speedup.interval
    return _at(speedup.batch, speedup.depth), kind, *figures, ideal, percent(speedup.share)


def _at(batch: int | None, depth: int | None) -> str:
    """A case of a speed run in words."""
    parts = ["" if batch is None else f"batch {batch}", "" if depth is None else f"{depth} tokens"]
    return ", ".join(part for part in parts if part)
