"""How long an export will take: operations of each step over rates that are measured on this machine.

A second of measuring gives how fast the machine multiplies matrices, reads memory and hashes. What a step does follows
from the shapes of the model, the tokens of the tasks and the ratio. Small factors, fitted to measured exports
(docs/measurements.md), account for what a plain count of operations leaves out.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from seap_export.families import ModelSpec

__all__ = ["Machine", "Work", "measure_machine", "step_seconds"]

_SIZE, _HASHED, _READ = 1024, 2**25, 2**26
_REPEATS = 5


@dataclass(frozen=True)
class Machine:
    """Rates of a machine, per second.

    Attributes:
        operations: Multiply-adds of float32 matrices.
        double_operations: Multiply-adds of float64 matrices.
        memory_bytes: Bytes of memory read.
        hashed_bytes: Bytes hashed by SHA-256.
    """

    operations: float
    double_operations: float
    memory_bytes: float
    hashed_bytes: float


def measure_machine() -> Machine:
    """Takes about a second; the best of a few tries each, since other work only slows the machine down."""
    single, double = (torch.ones(_SIZE, _SIZE, dtype=dtype) for dtype in (torch.float32, torch.float64))
    numbers, data = torch.ones(_READ // 4), bytes(_HASHED)
    return Machine(
        operations=_SIZE**3 / _best(lambda: single @ single),
        double_operations=_SIZE**3 / _best(lambda: double @ double),
        memory_bytes=_READ / _best(lambda: numbers.sum()),
        hashed_bytes=_HASHED / _best(lambda: hashlib.sha256(data).digest()),
    )


def _best(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
