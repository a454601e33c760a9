"""How long an export will take: the work of each step over rates that are measured on this machine.

What a step does follows from the shapes of the model, the tokens of the tasks and the ratio. A short measurement shows
how fast the machine multiplies matrices and reads memory. `_EFFORT` holds what lies between this plain count and the
time that exports really took; docs/contributing/scale.md compares the two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from converters.format import Format
from seap_export.allocation.texts import FITTED_TOKENS, JUDGED_TOKENS
from seap_export.distillation.texts import STEP_TOKENS
from seap_export.pipeline.cost.workload import KeptPart, Task, Workload
from validation.parity.candidate import arithmetic_of

__all__ = ["Machine", "measure_machine", "step_seconds"]

_SIZE, _READ, _REPEATS = 1024, 2**26, 5
#: Measured seconds over counted seconds, then seconds for each layer and for the step that do not depend on sizes.
_EFFORT: Mapping[str, tuple[float, float, float]] = {
    "calibration": (1.8, 0.15, 5.0),
    "ranking": (1.8, 0.25, 0.0),
    "plan": (1.4, 0.0, 0.0),  # roughly, from two runs
    "shrinking": (1.2, 0.15, 0.0),
    "rounding": (1.8, 0.4, 0.0),  # roughly, from one run
    "writing": (100.0, 0.0, 0.0),
    "parity": (1.4, 0.0, 6.0),
    "quality": (3.0, 0.0, 2.0),
    "speed": (2.5, 0.0, 0.8),
    "validation": (38.0, 0.0, 0.0),
}
#: How many times as long writing and parity take where weights are quantised: scales are searched, and torch rounds
#: activations as well. At int8, parity's products with float32 activations have no fast kernel in ONNX Runtime.
_QUANTIZED, _SLOW_INT8 = 2.0, 3.0
#: How many times as long as in ONNX Runtime parity takes; measured on SmolLM2-135M beside other work, so roughly.
_RUNTIMES: Mapping[str, float] = {"llama.cpp": 1.5, "openvino": 2.0, "transformers.js": 5.0, "mlx": 8.0}
#: Bytes that are read and written of each weight when it is trained.
_ADAM = 64
#: What the choice of heads takes, in cubes of their channels: if there are few, all sets of them are tried.
_FEW_HEADS, _ALL_SETS, _GREEDY = 12, 17.0, 3.5
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


def step_seconds(step: str, task: Task, ratio: float, work: Workload, machine: Machine) -> float:
    """About how many seconds a step takes.

    Args:
        step: `calibration`, `ranking`, `plan`, `shrinking`, `rounding`, `writing`, `parity`, `quality`, `speed` or
            `validation`. At ratio 0, `quality` and `speed` are the dense model's part.
        task: What it runs on.
        ratio: Fraction of the attention and MLP weights that the variant loses.
        work: What all steps depend on.
        machine: Its rates.
    """
    factor, of_layer, always = _EFFORT[step]
    counted = _COUNTED[step](KeptPart(work, 1.0 - ratio), task, machine)
    return factor * _slower(step, work.own) * counted + of_layer * len(work.spec.layers) + always


def _slower(step: str, own: Format) -> float:
    """How many times as long a step takes for this format as for float32 in ONNX Runtime."""
    if step not in ("writing", "parity"):
        return 1.0
    factor = 1.0 if arithmetic_of(own.precision).quantization is None else _QUANTIZED
    if step == "writing":
        return factor
    is_slow = (own.name, own.precision) == ("onnx", "int8")
    return factor * (_SLOW_INT8 if is_slow else 1.0) * _RUNTIMES.get(own.runtimes[0], 1.0)


def _calibration(model: KeptPart, task: Task, machine: Machine) -> float:
    tokens, backward = task.calibration_tokens, 3 * _SENSITIVITY_TOKENS
    operations = tokens * (model.linear + model.squares / 2) + backward * (model.linear + model.head)
    return operations / machine.operations


def _ranking(model: KeptPart, task: Task, machine: Machine) -> float:
    """Neurons are eliminated in float32: an inverse, updates and a factorisation. Heads are chosen in float64."""
    if not model.work.eliminates:
        return model.squares / machine.double_operations
    spec = model.work.spec
    neurons = heads = 0.0
    for index, layer in enumerate(spec.layers):
        width, channels = layer.intermediate_size, spec.projection_shape("o_proj", index)[1]
        neurons += 0.85 * width**3 + spec.hidden_size * width**2
        heads += (_ALL_SETS if layer.num_attention_heads <= _FEW_HEADS else _GREEDY) * channels**3
    return neurons / machine.operations + heads / machine.double_operations


def _plan(model: KeptPart, task: Task, machine: Machine) -> float:
    """The dense model once; then each trial runs and refits the shrunk one, and compares both on some tokens."""
    if not model.work.trials:
        return 0.0
    tokens = min(task.calibration_tokens, FITTED_TOKENS + JUDGED_TOKENS)
    judged = tokens * JUDGED_TOKENS / (FITTED_TOKENS + JUDGED_TOKENS)
    trial = tokens * (model.linear + model.squares / 2 + model.outputs) + 2 * judged * model.head
    operations = tokens * model.dense_linear + model.work.trials * trial
    return operations / machine.operations + model.work.trials * _solved(model) / machine.double_operations


def _shrinking(model: KeptPart, task: Task, machine: Machine) -> float:
    if not model.work.refits:
        return 4 * model.linear / machine.memory_bytes
    both = task.calibration_tokens * (model.linear + model.dense_linear + model.squares / 2 + model.outputs)
    refit = both / machine.operations + _solved(model) / machine.double_operations
    return refit + model.work.passes * _pass(model, task, machine)


def _solved(model: KeptPart) -> float:
    """The systems of a refit."""
    return model.cubes / 3 + 2 * model.work.spec.hidden_size * model.squares


def _pass(model: KeptPart, task: Task, machine: Machine) -> float:
    """Forwards, forwards again and backwards through the layers, two heads and back through one, and Adam."""
    walked = task.calibration_tokens * (4 * model.linear + 3 * model.head)
    changed = task.calibration_tokens / STEP_TOKENS * _ADAM * model.linear
    return walked / machine.operations + changed / machine.memory_bytes


def _rounding(model: KeptPart, task: Task, machine: Machine) -> float:
    """Both streams, and before them one for the LM head; then for each input two factors and what columns pass on."""
    spec = model.work.spec
    read = 2 * len(spec.layers) * spec.hidden_size**2
    sums = model.squares / 2 + model.outputs + 1.5 * read
    walked = task.calibration_tokens * (3 * model.linear + sums)
    passed_on = (model.linear + model.head) * spec.hidden_size
    factors = 2 * (model.cubes + read * spec.hidden_size) + 2 * model.linear * spec.hidden_size
    return (walked + passed_on) / machine.operations + factors / machine.double_operations


def _writing(model: KeptPart, task: Task, machine: Machine) -> float:
    """One pass over the weights in float32."""
    return 4 * (model.linear + model.head) / machine.memory_bytes


def _parity(model: KeptPart, task: Task, machine: Machine) -> float:
    tokens = 2 * (_PARITY_TOKENS + model.work.long_tokens)
    return tokens * (model.linear + model.head / 2) / machine.operations + (
        2 * _DECODE_STEPS * model.bytes / machine.memory_bytes
    )


def _quality(model: KeptPart, task: Task, machine: Machine) -> float:
    vocabulary = 8 * 4 * model.work.spec.vocab_size  # passes over the logits to compare them
    return task.held_out_tokens * (
        (model.linear + model.head) / machine.operations + vocabulary / machine.memory_bytes
    )


def _speed(model: KeptPart, task: Task, machine: Machine) -> float:
    prefill = 2 * 128 * model.linear / machine.operations
    return model.work.runs * (prefill + 24 * model.bytes / machine.memory_bytes)


def _validation(model: KeptPart, task: Task, machine: Machine) -> float:
    return 4 * model.bytes / machine.memory_bytes


_COUNTED: Mapping[str, Callable[[KeptPart, Task, Machine], float]] = {
    "calibration": _calibration,
    "ranking": _ranking,
    "plan": _plan,
    "shrinking": _shrinking,
    "rounding": _rounding,
    "writing": _writing,
    "parity": _parity,
    "quality": _quality,
    "speed": _speed,
    "validation": _validation,
}
