"""Writes a variant's model folder: shrunk, and distilled if its plan says so."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from seap_export.errors import InputError
from seap_export.model.families import ModelSpec
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.kept import UNFINISHED
from seap_export.model.layers.working_memory import working_bytes
from seap_export.model.sources.source import Source
from seap_export.model.sources.stored import PlainReader
from seap_export.model.sources.weights import SafetensorsReader, WeightReader
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.distillation.adam import Adam
from seap_export.pruning.distillation.layers import TrainedLayers
from seap_export.pruning.distillation.objectives import Imitation, Objective, OuterTensors
from seap_export.pruning.distillation.student import Student
from seap_export.pruning.distillation.texts import (
    STEP_TOKENS,
    TrainingStep,
    batches_of,
    number_of_steps,
    training_steps,
)
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.shrink.sequential import DENSE, storage_for_both
from seap_export.pruning.shrink.write import write_shrunk_model, write_weights

WEIGHTS = "model.safetensors"
#: The largest step of a weight, in units of its matrix's root mean square.
_RATE = 5e-4


def variant_units(layers: int, passes: float, ratio: float) -> int:
    """How often `write_variant` reports progress: for each layer, and as often while the model is distilled."""
    return layers * (2 if passes and ratio else 1)


def write_variant(
    source: Source,
    plan: Plan,
    statistics: TaskMixture,
    folder: Path,
    on_unit: Callable[[object], None] = lambda unit: None,
    *,
    compute: Compute | None = None,
) -> None:
    """Writes the model folder of a plan; see `write_shrunk_model` for what is in it and what may be raised.

    It continues what an interrupted call with the same arguments left in the folder.

    Args:
        source: The dense model.
        statistics: The texts, and the weights of their tasks.
        folder: An existing folder: empty, or with what was left there.
        on_unit: Called `variant_units` times.
        compute: Where layers are computed, and with how much memory.
    """
    compute = compute or Compute()
    if not _is_distilled(plan, source.spec):
        write_shrunk_model(source, plan, statistics, folder, on_unit, compute=compute)
        return
    unfinished = folder / UNFINISHED
    shrunk, streams = unfinished / "shrunk", unfinished / "streams"
    for subfolder in (shrunk, streams):
        subfolder.mkdir(parents=True, exist_ok=True)
    write_shrunk_model(source, plan, statistics, shrunk, on_unit, compute=compute, streams=streams)
    spec, reduced = plan.shrunk_spec(source.spec), source
    if plan.vocabulary is not None:
        reduced = source.with_tokens(plan.vocabulary)
    reader = PlainReader(SafetensorsReader(shrunk), spec)
    in_memory = fit_in_memory(source.spec, spec, statistics.num_tokens, compute)
    layers = TrainedLayers(unfinished, len(spec.layers), in_memory)
    if layers.step is None:
        layers.begin(as_floats(reader, spec, index) for index in range(len(spec.layers)))
    # ids and rows of the embedding are the dense model's, whatever the vocabulary
    embedding, tied = source.read_embedding(), source.spec.tie_word_embeddings
    head = reduced.read_head(embedding if tied and reduced is source else None)
    outer = OuterTensors(embedding, source.read_norm(), head)
    student = Student(spec, embedding, layers, unfinished, compute.device)
    steps = training_steps(statistics.token_ids(), compute)
    # the refit has left them there, for the same tokens in the same order
    targets = storage_for_both(source, statistics, streams, compute).streams(DENSE, source.spec, batches_of(steps))
    targets.load(len(source.spec.layers))
    _train(student, layers, _repeated(steps, plan.settings.distillation), Imitation(spec, outer, targets), on_unit)

    def distilled(first: int) -> Iterator[Mapping[str, torch.Tensor]]:
        for index in range(first, len(spec.layers)):
            stored = reader.read(spec.layer_tensors(index))
            yield {name: layers[index][name] if tensor.dim() == 2 else tensor for name, tensor in stored.items()}

    write_weights(reduced, spec, distilled, folder)
    others = shutil.ignore_patterns(WEIGHTS)
    shutil.copytree(shrunk, folder, ignore=others, copy_function=shutil.copyfile, dirs_exist_ok=True)
    shutil.rmtree(unfinished)


def _repeated(steps: Sequence[TrainingStep], passes: float) -> list[TrainingStep]:
    return [steps[index % len(steps)] for index in range(number_of_steps(passes, len(steps)))]


def _train(
    student: Student,
    layers: TrainedLayers,
    steps: Sequence[TrainingStep],
    objective: Objective,
    on_unit: Callable[[object], None],
) -> None:
    """Takes the training steps that are left, and reports progress in as many parts as there are layers."""
    number, parts = len(steps), layers.number
    first = layers.step or 0
    for _ in range(first * parts // number):
        on_unit(None)
    for index in range(first, number):
        loss = student.train(steps[index], objective, Adam(index, number, _RATE))
        if not math.isfinite(loss):
            raise InputError(f"distillation diverged at step {index + 1}; set 'distillation = 0' in the recipe")
        layers.advance()
        for _ in range((index + 1) * parts // number - index * parts // number):
            on_unit(None)


def as_floats(reader: WeightReader, spec: ModelSpec, index: int) -> dict[str, torch.Tensor]:
    """A layer's tensors as copies in float32, which may change."""
    tensors = reader.read(spec.layer_tensors(index))
    return {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}


def _is_distilled(plan: Plan, dense: ModelSpec) -> bool:
    """Whether anything was removed that the shrunk model could learn to make up for."""
    cut = (
        layer.is_cut(output, whole)
        for layer, whole in zip(plan.layers, dense.layers, strict=True)
        for output in whole.outputs
    )
    return plan.settings.distillation > 0 and any(cut)


def fit_in_memory(dense: ModelSpec, spec: ModelSpec, tokens: int, compute: Compute) -> bool:
    """Whether all layers fit in memory while they are trained, besides the stream of so many tokens."""
    layers = range(len(spec.layers))
    weights = sum(math.prod(shape) for layer in layers for shape in spec.layer_tensors(layer).values())
    streams = 4 * spec.width * (tokens + 4 * STEP_TOKENS)
    return 12 * weights + streams <= compute.memory - working_bytes(dense, compute.batch_tokens)
