"""The speed gate: decides whether variants are as much faster and smaller than the dense model as required.

A limit passes or fails only if the whole interval of the speed-up (`Speedup.interval`) is on one side of it. With five
runs, a verdict about a limit equal to the true speed-up is wrong in one case of 32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from seap_export.errors import UsageError
from validation.speed.interval import FEWEST_RUNS, spread
from validation.speed.measure import SpeedCell
from validation.speed.report import DENSE, SpeedReport, Speedup, SubjectFigures

Figure = Literal["decode_speedup", "prefill_speedup", "bytes_ratio"]
Verdict = Literal["passed", "failed", "too noisy"]

#: If a model's median is known only to this share of it or worse, something else used the machine, and may not have
#: slowed both models alike.
MAX_SPREAD = 0.25
_NOUNS = {"decode_speedup": "decode", "prefill_speedup": "prefill"}
_MOST_DECIMALS = 9
#: The engine whose figures are judged.
_JUDGED = "onnxruntime"


@dataclass(frozen=True)
class SpeedLimits:
    """The limits for every variant; None: no limit.

    Attributes:
        min_decode_speedup: Smallest speed-up of a decode step over the dense model, in every cell.
        min_prefill_speedup: Smallest speed-up of the time to the first token, in every cell.
        max_bytes_ratio: Largest size on disk as a share of the dense model's in the same form.
    """

    min_decode_speedup: float | None = None
    min_prefill_speedup: float | None = None
    max_bytes_ratio: float | None = None

    def __post_init__(self) -> None:
        limits = {field.name: getattr(self, field.name) for field in fields(self)}
        if all(limit is None for limit in limits.values()):
            raise UsageError(f"the speed gate has no limit; give one of {', '.join(limits)}")
        for name, limit in limits.items():
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise UsageError(f"{name} must be a number above 0, not {limit}")


@dataclass(frozen=True)
class SpeedVerdict:
    """One figure of one variant, judged against its limit.

    Attributes:
        figure: The judged figure: a speed-up, limited from below, or the ratio of bytes, limited from above.
        cell: The cell of a speed-up; None for the ratio of bytes.
        low: Lower bound of the true value.
        high: Upper bound of the true value; with fewer than `FEWEST_RUNS` runs both bounds are `measured`.
        runs: Runs of each model; 0 for the ratio of bytes, which is known exactly.
        spread: Width of the interval of a model's median as a share of it; the larger of both models.
    """

    variant: str
    figure: Figure
    cell: SpeedCell | None
    limit: float
    measured: float
    low: float
    high: float
    runs: int = 0
    spread: float = 0.0

    def __post_init__(self) -> None:
        if not self.low <= self.measured <= self.high:
            raise ValueError(f"{self.measured} is not between {self.low} and {self.high}")
        if (self.figure == "bytes_ratio") != (self.cell is None) or (self.cell is None) != (self.runs == 0):
            raise ValueError("a speed-up has a cell and runs, and the ratio of bytes has neither")

    @property
    def verdict(self) -> Verdict:
        """The verdict: a speed-up passes or fails only if its whole interval is on one side of the limit."""
        if self.cell is None:
            return "passed" if self.measured <= self.limit else "failed"
        if self.runs < FEWEST_RUNS or self.spread > MAX_SPREAD:
            return "too noisy"
        if self.low >= self.limit:
            return "passed"
        return "failed" if self.high < self.limit else "too noisy"

    @property
    def result(self) -> str:
        """The verdict with its figures in words, without the variant's name."""
        return _bytes(self) if self.cell is None else _speed(self, self.cell)


def judge_speed(report: SpeedReport, limits: SpeedLimits) -> tuple[SpeedVerdict, ...]:
    """Judges every variant in ONNX Runtime by every limit.

    Args:
        report: A speed run; with fewer than `FEWEST_RUNS` runs no speed-up can be judged.

    Returns:
        For each variant, the ratio of bytes and then the speed-ups of each cell, if they have limits.

    Raises:
        UsageError: The report has no variant in it.
    """
    variants = [subject for subject in report.subjects if subject.engine == _JUDGED and subject.model != DENSE]
    if not variants or not report.cells:
        raise UsageError(f"no variant was timed on {_JUDGED}; add one to judge its speed")
    return tuple(verdict for subject in variants for verdict in _verdicts(report, subject, limits))


def _verdicts(report: SpeedReport, variant: SubjectFigures, limits: SpeedLimits) -> Iterator[SpeedVerdict]:
    dense = report.dense(variant.engine)
    if limits.max_bytes_ratio is not None:
        ratio = variant.disk_bytes / dense.disk_bytes
        yield SpeedVerdict(variant.model, "bytes_ratio", None, limits.max_bytes_ratio, ratio, ratio, ratio)
    for cell in variant.timings:
        timings = dense.timings[cell], variant.timings[cell]
        if limits.min_decode_speedup is not None:
            runs = [timing.run_steps for timing in timings]
            speedup = report.decode(variant, cell)
            yield _speed_verdict(variant.model, "decode_speedup", cell, limits.min_decode_speedup, speedup, runs)
        if limits.min_prefill_speedup is not None:
            runs = [timing.prefills for timing in timings]
            speedup = report.prefill(variant, cell)
            yield _speed_verdict(variant.model, "prefill_speedup", cell, limits.min_prefill_speedup, speedup, runs)


def _speed_verdict(
    variant: str, figure: Figure, cell: SpeedCell, limit: float, speedup: Speedup, runs: Sequence[Sequence[float]]
) -> SpeedVerdict:
    measured, interval = speedup.measured, speedup.interval
    low, high = (interval.low, interval.high) if interval else (measured, measured)
    widest = max(spread(run) or 0.0 for run in runs)
    return SpeedVerdict(variant, figure, cell, limit, measured, low, high, len(runs[0]), widest)


def _bytes(verdict: SpeedVerdict) -> str:
    passed = verdict.verdict == "passed"
    ratio = _number(verdict.measured, verdict.limit)
    return f"{ratio} of the dense model's size on disk, {'at most' if passed else 'above'} {verdict.limit:g}"


def _speed(verdict: SpeedVerdict, cell: SpeedCell) -> str:
    limit = f"{verdict.limit:g}x"
    measured, low, high = (_number(value, verdict.limit) for value in (verdict.measured, verdict.low, verdict.high))
    what = f"{_NOUNS[verdict.figure]} at batch {cell.batch}, depth {cell.depth} is {measured}x"
    if verdict.runs < FEWEST_RUNS:
        return (
            f"too noisy to tell: {what} in {verdict.runs} runs, which are too few; give --runs {FEWEST_RUNS} or more"
        )
    what = f"{what} ({low} to {high})"
    remedy = "close other programs, or use more --runs"
    if verdict.spread > MAX_SPREAD:
        doubt = f"runs of one model differ by {verdict.spread:.0%}, more than {MAX_SPREAD:.0%}"
        return f"too noisy to tell: {what}, and {doubt}; {remedy}"
    if verdict.verdict == "too noisy":
        return f"too noisy to tell: {what}, around the limit of {limit}; {remedy}"
    return f"{what}, {'at least' if verdict.verdict == 'passed' else 'below'} {limit}"


def _number(value: float, limit: float) -> str:
    """Formats with two decimals, or as many as are needed to differ from the limit."""
    decimals = 2
    while value != limit and decimals < _MOST_DECIMALS and round(value, decimals) == round(limit, decimals):
        decimals += 1
    return f"{value:.{decimals}f}"
