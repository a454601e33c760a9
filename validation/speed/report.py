"""The results of a speed run: speed-ups over the dense model, and the share of the ideal ones they reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from validation.speed.engines import EngineName
from validation.speed.ideal import ModelWork
from validation.speed.interval import Interval, speedup_interval
from validation.speed.measure import SpeedCell, Timing

SCHEMA = "seap-export/bench/2"
DENSE = "dense"


@dataclass(frozen=True)
class Speedup:
    """The speed-up of a variant over the dense model on the same engine.

    Attributes:
        measured: Median of the dense model / median of the variant.
        ideal: Work of the dense model / work of the variant: bytes of a decode step, multiply-adds of a prefill.
        interval: Interval around `measured`, from the speed-ups of single runs; None if there are too few. Both models
            run in turn, so whatever slows a whole run slows both and hardly changes its speed-up.
    """

    measured: float
    ideal: float
    interval: Interval | None

    def to_json(self, what: str) -> dict[str, float | None]:
        """The figures as JSON values, of `decode` or `prefill`."""
        interval = self.interval
        return {
            f"{what}_speedup": self.measured,
            f"{what}_speedup_low": None if interval is None else interval.low,
            f"{what}_speedup_high": None if interval is None else interval.high,
            f"{what}_ideal_speedup": self.ideal,
            f"{what}_share_of_ideal": self.share,
        }

    @property
    def is_slower(self) -> bool:
        """Whether the variant is surely slower; too few runs for an interval say nothing."""
        return self.interval is not None and self.interval.high < 1

    @property
    def share(self) -> float:
        """The share of the ideal speed-up that is reached."""
        return self.measured / self.ideal


@dataclass(frozen=True)
class SubjectFigures:
    """The results of one model on one engine.

    Attributes:
        model: Name of the variant, or `dense`.
        disk_bytes: Bytes of its folder, as it would be shipped.
        peak_bytes: Peak memory of a process that runs it; None where the system does not report it.
        timings: The times in each cell that the engine takes.
        works: The least work in each of these cells.
        gpu_bytes: Bytes that it takes of the GPU's memory; None on the CPU, and where the driver does not report it.
    """

    model: str
    engine: EngineName
    disk_bytes: int
    peak_bytes: int | None
    timings: Mapping[SpeedCell, Timing]
    works: Mapping[SpeedCell, ModelWork]
    gpu_bytes: int | None = None


@dataclass(frozen=True)
class SpeedReport:
    """All results of a run and the conditions of the measurement.

    Attributes:
        subjects: The models on each engine, the dense model first.
        cells: The cells in the order of timing.
        setting: Provider, threads, runs, steps, form of the ONNX files, machine and versions.
    """

    subjects: Sequence[SubjectFigures]
    cells: Sequence[SpeedCell]
    setting: Mapping[str, Any]

    def dense(self, engine: EngineName) -> SubjectFigures:
        """The dense model's results on an engine."""
        return next(subject for subject in self.subjects if subject.model == DENSE and subject.engine == engine)

    def decode(self, subject: SubjectFigures, cell: SpeedCell) -> Speedup:
        """A model's speed-up of a decode step over the dense model on the same engine."""
        dense = self.dense(subject.engine)
        return _speedup(
            dense.timings[cell].step_s / subject.timings[cell].step_s,
            dense.works[cell].decode_bytes / subject.works[cell].decode_bytes,
            dense.timings[cell].run_steps,
            subject.timings[cell].run_steps,
        )

    def prefill(self, subject: SubjectFigures, cell: SpeedCell) -> Speedup:
        """A model's speed-up of the time to the first token over the dense model on the same engine."""
        dense = self.dense(subject.engine)
        return _speedup(
            dense.timings[cell].prefill_s / subject.timings[cell].prefill_s,
            dense.works[cell].prefill_macs / subject.works[cell].prefill_macs,
            dense.timings[cell].prefills,
            subject.timings[cell].prefills,
        )

    @property
    def complaints(self) -> list[str]:
        """One line for each variant that is surely slower, or no smaller, than the dense model."""
        lines = []
        for subject in self.subjects:
            if subject.model == DENSE:
                continue
            name = f"{subject.model} on {subject.engine}"
            if subject.disk_bytes >= self.dense(subject.engine).disk_bytes:
                lines.append(f"{name} is no smaller than the dense model")
            for cell in subject.timings:
                where = f"batch {cell.batch}, {cell.depth} tokens"
                for what, speedup in (
                    ("decode", self.decode(subject, cell)),
                    ("prefill", self.prefill(subject, cell)),
                ):
                    if speedup.is_slower:
                        lines.append(
                            f"{name}: {what} is slower than the dense model ({where}: {speedup.measured:.2f}x)"
                        )
        return lines

    @property
    def left_out(self) -> list[str]:
        """One line for each engine that does not take all cells."""
        lines = []
        for engine in dict.fromkeys(subject.engine for subject in self.subjects):
            missing = [cell for cell in self.cells if cell not in self.dense(engine).timings]
            depths = ", ".join(str(cell.depth) for cell in missing if cell.batch == 1)
            batches = ", ".join(str(cell.batch) for cell in missing if cell.batch > 1)
            if depths:
                lines.append(f"{engine} takes shorter texts only; left out: prompts of {depths} tokens")
            if batches:
                lines.append(f"{engine} was timed with one prompt at a time; left out: batches of {batches}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; times are in seconds."""
        return {
            "schema": SCHEMA,
            "setting": dict(self.setting),
            "subjects": [self._subject(subject) for subject in self.subjects],
            "complaints": self.complaints,
            "left_out": self.left_out,
        }

    def _subject(self, subject: SubjectFigures) -> dict[str, Any]:
        return {
            "model": subject.model,
            "engine": subject.engine,
            "disk_bytes": subject.disk_bytes,
            "peak_bytes": subject.peak_bytes,
            "gpu_bytes": subject.gpu_bytes,
            "cells": [self._cell(subject, cell) for cell in subject.timings],
        }

    def _cell(self, subject: SubjectFigures, cell: SpeedCell) -> dict[str, Any]:
        timing = subject.timings[cell]
        return {
            "batch": cell.batch,
            "depth": cell.depth,
            "prefill_s": timing.prefill_s,
            "prefill_p95_s": timing.prefill_p95_s,
            "decode_step_s": timing.step_s,
            "decode_step_p95_s": timing.step_p95_s,
            "decode_tokens_per_s": cell.batch / timing.step_s,
            **self.prefill(subject, cell).to_json("prefill"),
            **self.decode(subject, cell).to_json("decode"),
        }


def _speedup(measured: float, ideal: float, dense: Sequence[float], variant: Sequence[float]) -> Speedup:
    """The speed-up of two models, from one value per run, in the order of the runs."""
    return Speedup(measured, ideal, speedup_interval(measured, dense, variant))
