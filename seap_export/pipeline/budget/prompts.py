"""Predicts the time to the first token of a prompt: its multiply-adds at the pace of timed candidates."""

from __future__ import annotations

import time
from functools import cache

import torch

from seap_export.model.families import ModelSpec
from seap_export.pipeline.targets.candidate import Candidate
from validation.speed.ideal import model_work

#: How many times as long as in float32 a prompt takes in ONNX Runtime before anything was timed: about what
#: docs/measurements.md has of 512 tokens, for products of integers and for other quantised weights.
_OF_INTEGERS, _QUANTISED = 0.55, 1.3
_SIZE, _TRIES = 1024, 5


class Prompts:
    """Predicts milliseconds; the pace of a way is that of its candidate which was timed last.

    Args:
        operations: Multiply-adds of float32 matrices that the machine does in a second.
    """

    def __init__(self, tokens: int, operations: float) -> None:
        self._tokens, self._operations = tokens, operations
        self._paces: dict[Candidate, float] = {}

    def ms(self, candidate: Candidate, spec: ModelSpec) -> float:
        """The predicted milliseconds of a candidate of these shapes."""
        return self._pace(candidate.way) * self._products(candidate, spec)

    def learn(self, candidate: Candidate, spec: ModelSpec, ms: float) -> None:
        """Records a candidate's time."""
        self._paces[candidate.way] = ms / self._products(candidate, spec)

    def _pace(self, way: Candidate) -> float:
        """Milliseconds for a multiply-add. A way that was not timed is as slow as the slowest that works alike."""
        if way in self._paces:
            return self._paces[way]
        alike = [pace for other, pace in self._paces.items() if _kind(other) == _kind(way)]
        return max(alike, default=1e3 / self._operations * _factor(way))

    def _products(self, candidate: Candidate, spec: ModelSpec) -> float:
        last = candidate.format.gives_last_logits
        return model_work(spec, candidate.format.arithmetic, 1, self._tokens, last_logits=last).prefill_macs


def _kind(way: Candidate) -> tuple[str, bool, bool]:
    """The main factors of a way's pace: its format, and whether weights are rounded and products of integers."""
    grid = way.format.arithmetic.quantization
    return way.format.name, grid is not None, grid is not None and grid.rows


def _factor(way: Candidate) -> float:
    _, is_quantised, has_integers = _kind(way)
    return _OF_INTEGERS if has_integers else _QUANTISED if is_quantised else 1.0


@cache
def operations_per_second() -> float:
    """Multiply-adds of float32 matrices that this machine does in a second: the best of a few tries."""
    matrix, seconds = torch.ones(_SIZE, _SIZE), []
    for _ in range(_TRIES):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds.append(time.perf_counter() - start)
    return _SIZE**3 / min(seconds)
