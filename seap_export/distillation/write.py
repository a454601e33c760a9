"""Writes a variant's model folder: shrunk, and distilled if its plan says so."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from seap_export.activations.mixture import Mixture
from seap_export.distillation.adam import Adam
from seap_export.distillation.layers import TrainedLayers
from seap_export.distillation.student import OuterTensors, Student
from seap_export.distillation.teacher import dense_outputs
from seap_export.distillation.texts import TrainingStep, number_of_steps, training_steps
from seap_export.errors import InputError
from seap_export.families import ModelSpec
from seap_export.layers.compute import Compute
from seap_export.layers.halves import HALVES
from seap_export.layers.kept import UNFINISHED
from seap_export.layers.streams import choose_storage
from seap_export.layers.working_memory import working_bytes
from seap_export.plan.plan import Plan
from seap_export.shrink.write import write_shrunk_model, write_weights
from seap_export.sources.source import Source
from seap_export.sources.stored import PlainReader
from seap_export.sources.weights import SafetensorsReader, WeightReader

__all__ = ["distilled_bytes", "variant_units", "write_variant"]

_WEIGHTS = "model.safetensors"


def variant_units(layers: int, distillation: float, ratio: float) -> int:
    """How often `write_variant` reports progress: for each layer, and as often while the model is distilled."""
    return layers * (2 if distillation and ratio else 1)


def distilled_bytes(spec: ModelSpec) -> int:
    """Bytes of a model's layers while they are trained: weights in float32, and Adam's two running means."""
    layers = range(len(spec.layers))
    return 12 * sum(math.prod(shape) for layer in layers for shape in spec.layer_tensors(layer).values())


def write_variant(
    source: Source,
    plan: Plan,
    statistics: Mixture,
    folder: Path,
    on_unit: Callable[[object], None] = lambda unit: None,
    *,
    compute: Compute | None = None,
) -> None:
    """Writes the model folder of a plan; see `write_shrunk_model` for what is in it and what may be raised.

    It continues what an interrupted call with the same arguments left in the folder.
    """
    compute = compute or Compute()
    if not _is_distilled(plan, source.spec):
        write_shrunk_model(source, plan, statistics, folder, on_unit, compute=compute)
        return
    unfinished = folder / UNFINISHED
    shrunk = unfinished / "shrunk"
    shrunk.mkdir(parents=True, exist_ok=True)
    write_shrunk_model(source, plan, statistics, shrunk, on_unit, compute=compute)
    kept = source if plan.vocabulary is None else source.with_tokens(plan.vocabulary)
    spec = plan.shrunk_spec(source.spec)
    reader = PlainReader(SafetensorsReader(shrunk), spec)
    layers = TrainedLayers(unfinished, len(spec.layers), _fits(kept.spec, spec, compute))
    if layers.step is None:
        layers.begin(_floats(reader, spec, index) for index in range(len(spec.layers)))
    steps = training_steps(statistics.token_ids(plan.vocabulary), compute)
    _train(kept, spec, layers, steps, number_of_steps(plan.distillation, len(steps)), unfinished, compute, on_unit)

    def distilled(first: int) -> Iterator[Mapping[str, torch.Tensor]]:
        for index in range(first, len(spec.layers)):
            own = reader.read(spec.layer_tensors(index))
            yield {name: layers[index][name] if tensor.dim() == 2 else tensor for name, tensor in own.items()}

    write_weights(kept, spec, distilled, folder)
    for path in shrunk.iterdir():
        if path.name != _WEIGHTS:
            shutil.copyfile(path, folder / path.name)
    shutil.rmtree(unfinished)


def _train(
    dense: Source,
    spec: ModelSpec,
    layers: TrainedLayers,
    steps: Sequence[TrainingStep],
    number: int,
    folder: Path,
    compute: Compute,
    on_unit: Callable[[object], None],
) -> None:
    """Takes that many training steps, less those that are done, with the texts in turn."""
    outer = OuterTensors(
        dense.read_outer("embed_tokens"),
        dense.read_outer("norm"),
        dense.read_outer("embed_tokens" if dense.spec.tie_word_embeddings else "lm_head"),
    )
    batches = [batch for step in steps for batch in step.batches]
    storage = choose_storage(dense.spec, sum(batch.num_tokens for batch in batches), compute, folder)
    targets = dense_outputs(dense, outer, batches, storage, compute)
    student = Student(spec, outer, layers, compute.device)
    first, parts = layers.step or 0, len(spec.layers)
    for _ in range(first * parts // number):
        on_unit(None)
    for index in range(first, number):
        loss = student.train(steps[index % len(steps)], targets, Adam(index, number))
        if not math.isfinite(loss):
            raise InputError(
                f"distillation of '{dense.name}' diverged at training step {index + 1}; set 'distillation = 0' in the "
                "recipe"
            )
        layers.advance(last=index + 1 == number)
        for _ in range((index + 1) * parts // number - index * parts // number):
            on_unit(None)


def _floats(reader: WeightReader, spec: ModelSpec, index: int) -> dict[str, torch.Tensor]:
    """A layer's tensors as copies in float32, which may change."""
    own = reader.read(spec.layer_tensors(index))
    return {name: tensor.to(torch.float32, copy=True) for name, tensor in own.items()}


def _is_distilled(plan: Plan, dense: ModelSpec) -> bool:
    """Whether anything was removed that the shrunk model could learn to make up for."""
    cut = (own.is_cut(half, whole) for own, whole in zip(plan.layers, dense.layers, strict=True) for half in HALVES)
    return plan.distillation > 0 and any(cut)


def _fits(dense: ModelSpec, spec: ModelSpec, compute: Compute) -> bool:
    """Whether the layers that are trained fit in memory, besides the dense model's outputs and what a step needs."""
    return distilled_bytes(spec) <= compute.memory - working_bytes(dense, compute.batch_tokens)
