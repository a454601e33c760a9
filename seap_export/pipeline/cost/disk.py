"""How much disk each step of an export takes: what stays, and what is there only while the step runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from converters.format import Format
from converters.hf.format import HfFormat
from seap_export.activations.statistics import covariance_bytes
from seap_export.allocation.texts import FITTED_TOKENS, JUDGED_TOKENS
from seap_export.distillation.texts import STEP_TOKENS
from seap_export.layers.halves import HALVES
from seap_export.pipeline.cost.sizes import format_bytes
from seap_export.pipeline.cost.workload import KeptPart, Task, Workload
from validation.parity.run import MAX_PROMPT_TOKENS
from validation.prompts import BATCH_ROWS, KEPT_TOKENS, RANDOM_TOKENS

__all__ = ["Disk", "beside_weights", "needed", "step_disk", "variant_bytes"]

#: Bytes of plan.json for each neuron that is kept, of a graph for each layer, and of an artifact's small files.
_NEURON, _GRAPH, _SMALL = 5, 5000, 20_000


@dataclass(frozen=True)
class Disk:
    """Bytes on the disk.

    Attributes:
        kept: What stays in the output folder.
        unfinished: What is in the output folder while a step runs, at most.
        temporary: What is in the temporary folder while a step runs, at most.
    """

    kept: int = 0
    unfinished: int = 0
    temporary: int = 0


def needed(steps: Iterable[Disk]) -> Disk:
    """What steps that run one after the other need: everything that stays, and the most of what does not."""
    own = tuple(steps)
    return Disk(
        sum(step.kept for step in own),
        max((step.unfinished for step in own), default=0),
        max((step.temporary for step in own), default=0),
    )


def step_disk(step: str, task: Task, ratio: float, work: Workload) -> Disk:
    """About how many bytes a step takes.

    Args:
        step: As for `estimate.step_seconds`, or `plan`.
        task: What it runs on.
        ratio: Fraction of the attention and MLP weights that the variant loses.
        work: What all steps depend on.
    """
    own = _TAKEN.get(step)
    return Disk() if own is None else own(KeptPart(work, 1.0 - ratio), task)


def variant_bytes(ratio: float, work: Workload, formats: Iterable[Format]) -> int:
    """About how many bytes a variant takes, if the requested ratio is the achieved one.

    Args:
        ratio: Fraction of the attention and MLP weights that it loses.
        work: What all steps depend on.
        formats: What is written beside the model folder.
    """
    writing = [replace(work, own=own) for own in formats]
    kept = [step_disk(step, Task(0, 0), ratio, work).kept for step in ("plan", "shrinking")]
    return sum(kept) + sum(step_disk("writing", Task(0, 0), ratio, own).kept for own in writing)


def beside_weights(work: Workload) -> int:
    """About how many bytes a written folder takes besides its weights: tokenizer, graph and settings."""
    return work.tokenizer_bytes + _SMALL + _GRAPH * len(work.spec.layers)


def _calibration(model: KeptPart, task: Task) -> Disk:
    spec = model.work.spec
    channels = sum(spec.projection_shape(half, layer)[1] for layer in range(len(spec.layers)) for half in HALVES)
    moments = 2 * 8 * channels
    kept = covariance_bytes(spec) + moments + 4 * task.calibration_tokens
    return Disk(kept, unfinished=2 * _hidden(model, task))


def _ranking(model: KeptPart, task: Task) -> Disk:
    """Order and losses of the neurons in 8 bytes each."""
    return Disk(16 * _neurons(model))


def _plan(model: KeptPart, task: Task) -> Disk:
    """While plans are tried, what each half of the dense model wrote for some texts."""
    kept = round(_NEURON * model.kept * _neurons(model))
    if not model.work.trials:
        return Disk(kept)
    tried = Task(min(task.calibration_tokens, FITTED_TOKENS + JUDGED_TOKENS), 0)
    return Disk(kept, unfinished=2 * len(model.work.spec.layers) * _hidden(model, tried))


def _shrinking(model: KeptPart, task: Task) -> Disk:
    """While it is refitted, two streams, each as it was before the layer and as it becomes.

    While it is distilled, one of these, the refitted model, weights and two running means in float32, as they were
    before the training step and as they become, and the streams of its texts before each layer.
    """
    kept, streams = _files(model, model.work.hf), 4 * _hidden(model, task) if model.work.refits else 0
    if not (model.work.refits and model.work.passes):
        return Disk(kept, unfinished=streams)
    layers = len(model.work.spec.layers)
    training = round(24 * model.linear) + 4 * STEP_TOKENS * model.work.spec.hidden_size * layers
    return Disk(kept, unfinished=kept + max(streams, streams // 2 + training))


def _rounding(model: KeptPart, task: Task) -> Disk:
    """The model in float32; meanwhile two streams, as for the refit, and the tables outside of the layers."""
    tables = 4 * model.head * (1 if model.work.spec.tie_word_embeddings else 2)
    return Disk(_files(model, HfFormat("fp32")), unfinished=4 * _hidden(model, task) + tables)


def _writing(model: KeptPart, task: Task) -> Disk:
    return Disk(_files(model, model.work.own) + _GRAPH * len(model.work.spec.layers))


def _parity(model: KeptPart, task: Task) -> Disk:
    """Torch's logits and caches, in float32, of the prompts, the batch's rows and the other cases."""
    work, spec = model.work, model.work.spec
    rows = work.prompts + max(0, BATCH_ROWS - work.prompts)
    short = rows * MAX_PROMPT_TOKENS + 1 + RANDOM_TOKENS + (rows + 2) * work.decode_steps
    logits = 4 * spec.vocab_size * (short + KEPT_TOKENS + work.decode_steps)
    cached = model.kept * sum(2 * 4 * layer.num_key_value_heads * spec.head_dim for layer in spec.layers)
    return Disk(temporary=logits + round(cached * (short + work.long_tokens)))


def _quality(model: KeptPart, task: Task) -> Disk:
    """The dense model's logits of all held-out texts, in float32."""
    return Disk(temporary=4 * model.work.spec.vocab_size * task.held_out_tokens + _dense_folder(model))


def _speed(model: KeptPart, task: Task) -> Disk:
    """The dense model in ONNX."""
    dense = KeptPart(model.work, 1.0)
    return Disk(temporary=_files(dense, model.work.own) + _dense_folder(dense))


def _dense_folder(model: KeptPart) -> int:
    return 0 if model.work.is_folder else _files(KeptPart(model.work, 1.0), model.work.hf)


def _files(model: KeptPart, own: Format) -> int:
    work = model.work
    return format_bytes(own, work.spec, model.dense_linear - model.linear) + work.tokenizer_bytes + _SMALL


def _hidden(model: KeptPart, task: Task) -> int:
    return 4 * model.work.spec.hidden_size * task.calibration_tokens


def _neurons(model: KeptPart) -> int:
    spec = model.work.spec
    return sum(spec.projection_shape("down_proj", layer)[1] for layer in range(len(spec.layers)))


_TAKEN: Mapping[str, Callable[[KeptPart, Task], Disk]] = {
    "calibration": _calibration,
    "ranking": _ranking,
    "plan": _plan,
    "shrinking": _shrinking,
    "rounding": _rounding,
    "writing": _writing,
    "parity": _parity,
    "quality": _quality,
    "speed": _speed,
}
