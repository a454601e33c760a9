"""How much memory each step of an export needs: one layer and what is computed from it, whatever the number of layers.

`pipeline.estimate` and `pipeline.disk` say how long the same steps take and what they write.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from seap_export.distillation.texts import STEP_TOKENS
from seap_export.layers.compute import Compute
from seap_export.layers.halves import HALVES
from seap_export.layers.working_memory import working_bytes
from seap_export.pipeline.cost.sizes import format_bytes
from seap_export.pipeline.cost.workload import KeptPart, Task, Workload
from validation.prompts import CALL_TOKENS

__all__ = ["Memory", "step_memory"]

#: What Python, torch, transformers and ONNX Runtime take before any work, and what CUDA takes on the host and the GPU.
_BASE, _CUDA_HOST, _CUDA = 650_000_000, 1_500_000_000, 600_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes of the host's memory, and of the GPU's if there is one."""

    host: int
    device: int = 0


def step_memory(step: str, task: Task, ratio: float, work: Workload, *, on_gpu: bool = False) -> Memory:
    """About how much memory a step needs where hidden states are kept in memory; on disk they take none.

    Args:
        step: `calibration`, `ranking`, `shrinking`, `rounding`, `writing` or `parity`.
        task: What it runs on.
        ratio: Fraction of the attention and MLP weights that the variant loses.
        work: What all steps depend on.
        on_gpu: Whether layers are computed on a GPU.
    """
    model = KeptPart(work, 1.0 - ratio)
    needed = round(_NEEDED[step](model, task))
    if not on_gpu or step not in ("calibration", "ranking", "shrinking", "rounding"):
        return Memory(_BASE + needed + (_CUDA_HOST if on_gpu else 0))
    return Memory(_BASE + _CUDA_HOST + 4 * _layer_weights(work), _CUDA + needed)


def _calibration(model: KeptPart, task: Task) -> float:
    return _working(model.work) + _hidden(model, task)


def _shrinking(model: KeptPart, task: Task) -> float:
    """Two streams, and the inputs of the projection that is fitted; then distillation."""
    if not model.work.refits:
        return 8 * _layer_weights(model.work)
    inputs = 4 * task.calibration_tokens * model.kept * _widest(model.work)
    refit = _working(model.work) + 2 * _hidden(model, task) + inputs
    return max(refit, _distilling(model, task)) if model.work.passes else refit


def _distilling(model: KeptPart, task: Task) -> float:
    """The dense stream, those of a training step, and a layer with its gradients and running means.

    The other layers wait in files; if they fit in memory, they are there.
    """
    work, spec = model.work, model.work.spec
    step = 4 * 4 * STEP_TOKENS * spec.hidden_size
    return _working(work) + _hidden(model, task) + step + 16 * model.kept * _layer_weights(work)


def _rounding(model: KeptPart, task: Task) -> float:
    """Besides what a refit needs, the layer in floats and rounded, and further matrices over the inputs of one."""
    work, head = model.work, 4 * model.head
    inputs = 4 * task.calibration_tokens * model.kept * _widest(work)
    layer = _working(work) + 8 * _layer_weights(work) + 24 * _widest(work) ** 2
    return max(layer + 2 * _hidden(model, task) + inputs, 2 * head + _hidden(model, task))


def _ranking(model: KeptPart, task: Task) -> float:
    """The covariance in float64, packed and whole, its float32 copy, and the weights in both."""
    widest = _widest(model.work)
    return (8 + 2 + 4) * widest**2 + 12 * widest * model.work.spec.hidden_size


def _writing(model: KeptPart, task: Task) -> float:
    """A layer of the variant, or the embedding, as it is stored and in float32."""
    return max(8 * model.kept * _layer_weights(model.work), 8 * model.head)


def _parity(model: KeptPart, task: Task) -> float:
    """ONNX Runtime's mapped file, the copies of its matrices that kernels pack, and the logits of a call."""
    work = model.work
    file = format_bytes(work.own, work.spec, model.dense_linear - model.linear)
    copies = file * model.linear / (model.linear + model.head)
    return file + copies + 4 * work.spec.vocab_size * CALL_TOKENS


def _working(work: Workload) -> int:
    return working_bytes(work.spec, Compute().batch_tokens)


def _layer_weights(work: Workload) -> int:
    spec = work.spec
    return max(sum(map(math.prod, spec.layer_tensors(layer).values())) for layer in range(len(spec.layers)))


def _widest(work: Workload) -> int:
    spec = work.spec
    return max(spec.projection_shape(half, layer)[1] for layer in range(len(spec.layers)) for half in HALVES)


def _hidden(model: KeptPart, task: Task) -> int:
    return 4 * model.work.spec.hidden_size * task.calibration_tokens


_NEEDED: Mapping[str, Callable[[KeptPart, Task], float]] = {
    "calibration": _calibration,
    "ranking": _ranking,
    "shrinking": _shrinking,
    "rounding": _rounding,
    "writing": _writing,
    "parity": _parity,
}
