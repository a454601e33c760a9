"""How long an export will take: the work of each step over rates that are measured on this machine.

What a step does follows from the shapes of the model, the tokens of the tasks and the ratio. A short measurement shows
how fast the machine multiplies matrices and reads memory. `_EFFORT` holds what lies between this plain count and the
time that exports really took; docs/measurements.md compares the two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from seap_export.families import ModelSpec

__all__ = ["Machine", "Task", "Workload", "measure_machine", "step_seconds"]

_SIZE, _READ, _REPEATS = 1024, 2**26, 5
#: Measured seconds over counted seconds, and seconds that a step takes whatever the model.
_EFFORT: Mapping[str, tuple[float, float]] = {
    "calibration": (2.0, 3.0),
    "ranking": (7.3, 0.0),
    "shrinking": (2.05, 0.0),
    "onnx": (205.0, 0.0),
    "parity": (1.5, 4.0),
    "quality": (3.0, 2.0),
    "speed": (2.5, 0.8),
    "validation": (38.0, 0.0),
}
#: Tokens that parity and the sensitivity run, besides parity's long prompt.
_PARITY_TOKENS, _SENSITIVITY_TOKENS = 1000, 512
_DECODE_STEPS = 150


@dataclass(frozen=True)
class Machine:
    """Rates of a machine, per second.

    Attributes:
        operations: Multiply-adds of float32 matrices.
        double_operations: Multiply-adds of float64 matrices.
        memory_bytes: Bytes of memory read.
    """

    operations: float
    double_operations: float
    memory_bytes: float


def measure_machine() -> Machine:
    """Takes the best of a few tries of each, since other work only slows the machine down."""
    single, double = (torch.ones(_SIZE, _SIZE, dtype=dtype) for dtype in (torch.float32, torch.float64))
    numbers = torch.ones(_READ // 4)
    return Machine(
        operations=_SIZE**3 / _best(lambda: single @ single),
        double_operations=_SIZE**3 / _best(lambda: double @ double),
        memory_bytes=_READ / _best(lambda: numbers.sum()),
    )


def _best(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@dataclass(frozen=True)
class Task:
    """The tokens of a task, or of all tasks of a mixture.

    Attributes:
        calibration_tokens: Tokens that it is calibrated on.
        held_out_tokens: Tokens that its quality is measured on.
    """

    calibration_tokens: int
    held_out_tokens: int


@dataclass(frozen=True)
class Workload:
    """What the steps of an export depend on.

    Attributes:
        spec: The dense model.
        eliminates: Whether neurons are ranked by elimination rather than by scores.
        refits: Whether layers are refitted one after another.
        long_tokens: Positions of parity's long prompt.
        runs: Runs of each model in the speed step.
        dense_bytes: Size of the dense model's ONNX file.
    """

    spec: ModelSpec
    eliminates: bool
    refits: bool
    long_tokens: int
    runs: int
    dense_bytes: int


def step_seconds(step: str, task: Task, ratio: float, work: Workload, machine: Machine) -> float:
    """About how many seconds a step takes.

    Args:
        step: `calibration`, `ranking`, `shrinking`, `onnx`, `parity`, `quality`, `speed` or `validation`. At ratio 0,
            `quality` and `speed` are the dense model's part.
        task: What it runs on.
        ratio: Fraction of the attention and MLP weights that the variant loses.
        work: What all steps depend on.
        machine: Its rates.
    """
    factor, always = _EFFORT[step]
    return factor * _COUNTED[step](_Variant(work, 1.0 - ratio), task, machine) + always


class _Variant:
    """Sizes of a model of which a fraction of the attention and MLP weights is kept."""

    def __init__(self, work: Workload, kept: float) -> None:
        spec, layers = work.spec, range(len(work.spec.layers))
        widths = [spec.projection_shape(half, layer)[1] for layer in layers for half in ("o_proj", "down_proj")]
        self.work = work
        self.linear = kept * sum(spec.prunable_weights(layer) for layer in layers)
        self.dense_linear = self.linear / kept
        self.head = spec.vocab_size * spec.hidden_size
        self.squares = sum((kept * width) ** 2 for width in widths)
        self.cubes = sum((kept * width) ** 3 for width in widths)
        self.outputs = sum(spec.hidden_size * kept * width for width in widths)
        self.bytes = work.dense_bytes * (self.linear + self.head) / (self.dense_linear + self.head)


def _calibration(model: _Variant, task: Task, machine: Machine) -> float:
    tokens, backward = task.calibration_tokens, 3 * _SENSITIVITY_TOKENS
    operations = tokens * (model.linear + model.squares / 2) + backward * (model.linear + model.head)
    return operations / machine.operations


def _ranking(model: _Variant, task: Task, machine: Machine) -> float:
    return (model.cubes if model.work.eliminates else model.squares) / machine.double_operations


def _shrinking(model: _Variant, task: Task, machine: Machine) -> float:
    if not model.work.refits:
        return 4 * model.linear / machine.memory_bytes
    both = task.calibration_tokens * (model.linear + model.dense_linear + model.squares / 2 + model.outputs)
    solved = model.cubes / 3 + 2 * model.work.spec.hidden_size * model.squares
    return both / machine.operations + solved / machine.double_operations


def _onnx(model: _Variant, task: Task, machine: Machine) -> float:
    return model.bytes / machine.memory_bytes


def _parity(model: _Variant, task: Task, machine: Machine) -> float:
    tokens = 2 * (_PARITY_TOKENS + model.work.long_tokens)
    return tokens * (model.linear + model.head / 2) / machine.operations + (
        2 * _DECODE_STEPS * model.bytes / machine.memory_bytes
    )


def _quality(model: _Variant, task: Task, machine: Machine) -> float:
    vocabulary = 8 * 4 * model.work.spec.vocab_size  # passes over the logits to compare them
    return task.held_out_tokens * (
        (model.linear + model.head) / machine.operations + vocabulary / machine.memory_bytes
    )


def _speed(model: _Variant, task: Task, machine: Machine) -> float:
    prefill = 2 * 128 * model.linear / machine.operations
    return model.work.runs * (prefill + 24 * model.bytes / machine.memory_bytes)


def _validation(model: _Variant, task: Task, machine: Machine) -> float:
    return 4 * model.bytes / machine.memory_bytes


_COUNTED: Mapping[str, Callable[[_Variant, Task, Machine], float]] = {
    "calibration": _calibration,
    "ranking": _ranking,
    "shrinking": _shrinking,
    "onnx": _onnx,
    "parity": _parity,
    "quality": _quality,
    "speed": _speed,
    "validation": _validation,
}
