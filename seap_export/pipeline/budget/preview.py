"""Which candidates a search would begin with, and what it would take, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from seap_export.families import ModelSpec
from seap_export.pipeline.budget.baseline import timed_depth, usual_format
from seap_export.pipeline.budget.predictor import Predictor
from seap_export.pipeline.budget.search import MOST_EVALUATIONS
from seap_export.pipeline.folder.names import variant_name
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.steps.formats import FormatStep, ParityStep
from seap_export.pipeline.steps.planned_work import PlannedWork
from seap_export.pipeline.steps.quality import QualityStep
from seap_export.pipeline.steps.rounding import RoundingStep
from seap_export.pipeline.steps.speed import SpeedStep
from seap_export.pipeline.steps.validation import ValidationStep
from seap_export.pipeline.steps.variant import ShrinkStep
from seap_export.pipeline.targets.candidate import Candidate, ways
from seap_export.plan.cost import layer_shape
from seap_export.plan.solve import largest_ratio
from seap_export.vocabulary.table import Vocabulary

__all__ = ["first_candidates", "search_disk", "search_work"]

#: A ratio that stands for those that KL alone decides.
_TYPICAL = 0.4


def first_candidates(
    spec: ModelSpec, request: ExportRequest, vocabularies: Mapping[str, Vocabulary], beside: int
) -> tuple[dict[str, Any], ...]:
    """The dense model in every way, and in each the ratio that about meets size and speed; KL is not known yet.

    Args:
        spec: The dense model.
        request: With targets.
        vocabularies: The tokens that candidates of each task and mixture keep, unless they keep all.
        beside: Bytes of a folder besides its weights.
    """
    predictors = _predictors(spec, request, vocabularies, beside)
    return tuple(
        {
            "variant": variant_name(mixture.name, own.ratio),
            "format": own.format.name,
            "precision": own.format.precision,
            "vocabulary": own.vocabulary,
            "bytes_about": predictors[mixture.name].bytes(own),
            "decode_ideal_speedup": predictors[mixture.name].ideal_speedup(own),
        }
        for mixture in request.all_mixtures
        for own in _first(request, predictors[mixture.name])
    )


def search_work(
    spec: ModelSpec, request: ExportRequest, vocabularies: Mapping[str, Vocabulary], beside: int
) -> tuple[PlannedWork, ...]:
    """What the search adds to an export, and the checks of what it chooses; with a limit of KL, about the most.

    Candidates count with the tokens that they keep. What is chosen counts with the most that it may keep: with
    `--vocabulary auto`, all.

    Args:
        spec: The dense model.
        request: With targets.
        vocabularies: As for `first_candidates`.
        beside: As for `first_candidates`.
    """
    predictors = _predictors(spec, request, vocabularies, beside)
    is_cut = all(way.vocabulary != "all" for way in ways(request.formats, request.vocabulary))
    found = list[PlannedWork]()
    for mixture in request.all_mixtures:
        tasks, kept = tuple(mixture.weights), vocabularies.get(mixture.name)
        for own in _tried(request, predictors[mixture.name]):
            of_own = None if own.vocabulary == "all" else kept
            shrinking = [ShrinkStep.cost] if own.ratio else []
            rounding = [RoundingStep.cost] if request.grid(own.format, spec) is not None else []
            found += [PlannedWork(cost, tasks, own.ratio, None, of_own) for cost in shrinking + rounding]
            measuring = FormatStep.cost, QualityStep.cost
            found += [PlannedWork(cost, tasks, own.ratio, own.format, of_own) for cost in measuring]
        chosen = [ParityStep.cost, ValidationStep.cost, QualityStep.cost, *([SpeedStep.cost] if request.speed else [])]
        most = kept if is_cut else None
        found += [PlannedWork(cost, tasks, _TYPICAL, request.formats[-1], most) for cost in chosen]
    return tuple(found)


def search_disk(spec: ModelSpec, request: ExportRequest) -> tuple[PlannedWork, ...]:
    """What lies on the disk at once: the best candidate so far, the next one, and what tasks before have chosen.

    All count with the whole vocabulary, which is the most.
    """
    tasks = tuple(task.name for task in request.tasks)
    widest = max(request.formats, key=lambda own: own.size(spec))
    one = (PlannedWork(ShrinkStep.cost, tasks), PlannedWork(FormatStep.cost, tasks, format=widest))
    return one * (1 + len(request.all_mixtures))


def _tried(request: ExportRequest, predictor: Predictor) -> list[Candidate]:
    """About what is made for a task; with a limit of KL, as many pruned candidates as there may be."""
    first = list(_first(request, predictor))
    assert request.targets is not None
    if request.targets.max_kl is None:
        return first
    typical = [replace(way, ratio=_TYPICAL) for way in ways(request.formats, request.vocabulary)]
    return [own for own in first if not own.ratio] + (typical * MOST_EVALUATIONS)[:MOST_EVALUATIONS]


def _first(request: ExportRequest, predictor: Predictor) -> Iterator[Candidate]:
    assert request.targets is not None
    for way in ways(request.formats, request.vocabulary):
        yield way
        least = predictor.least_ratio(way, request.targets)
        if least:
            yield replace(way, ratio=least)


def _predictors(
    spec: ModelSpec, request: ExportRequest, vocabularies: Mapping[str, Vocabulary], beside: int
) -> dict[str, Predictor]:
    """By task and mixture."""
    return {own.name: _predictor(spec, request, vocabularies.get(own.name), beside) for own in request.all_mixtures}


def _predictor(spec: ModelSpec, request: ExportRequest, kept: Vocabulary | None, beside: int) -> Predictor:
    plan = request.plan
    most = largest_ratio(spec, plan.sparsity, plan.align, plan.layout)
    usual, depth = usual_format(request.formats), timed_depth(spec, request)

    def shrunk(own: Candidate) -> ModelSpec:
        thinner = _thinner(spec, own.ratio)
        return thinner if kept is None or own.vocabulary == "all" else thinner.with_tokens(len(kept))

    return Predictor(shrunk, most, usual, depth, beside)


def _thinner(spec: ModelSpec, ratio: float) -> ModelSpec:
    """The model without about this fraction of each layer's weights."""
    layers = []
    for index, own in enumerate(spec.layers):
        shape = layer_shape(spec, index)
        groups = max(1, round((1 - ratio) * own.num_key_value_heads))
        heads = groups * own.heads_per_group
        left = (1 - ratio) * shape.total_weights - shape.attention_weights(heads, groups)
        neurons = min(max(1, round(left / shape.neuron_weights)), own.intermediate_size)
        layers.append(replace(own, num_attention_heads=heads, num_key_value_heads=groups, intermediate_size=neurons))
    return spec.with_layers(tuple(layers))
