"""Which candidates a search would begin with, and what it would take, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from seap_export.families import ModelSpec
from seap_export.pipeline.budget.candidate import Candidate, ways
from seap_export.pipeline.budget.predictor import Predictor
from seap_export.pipeline.budget.search import MOST_EVALUATIONS
from seap_export.pipeline.budget.usual import timed_depth, usual_format
from seap_export.pipeline.remaining import Remaining
from seap_export.pipeline.request import ExportRequest
from seap_export.pipeline.settings import variant_name
from seap_export.plan.cost import layer_shape
from seap_export.plan.solve import largest_ratio

__all__ = ["first_candidates", "search_disk", "search_work"]

#: A ratio that stands for those that KL alone decides.
_TYPICAL = 0.4


def first_candidates(
    spec: ModelSpec, request: ExportRequest, tokens: Mapping[str, int], beside: int
) -> tuple[dict[str, Any], ...]:
    """The dense model in every way, and in each the ratio that about meets size and speed; KL is not known yet.

    Args:
        spec: The dense model.
        request: With targets.
        tokens: How many tokens candidates of each task and mixture keep, unless they keep all.
        beside: Bytes of a folder besides its weights.
    """
    predictors = {own.name: _predictor(spec, request, tokens.get(own.name), beside) for own in request.all_mixtures}
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


def search_work(spec: ModelSpec, request: ExportRequest) -> tuple[Remaining, ...]:
    """What the search adds to an export, and the checks of what it chooses; with a limit of KL, about the most."""
    candidates = list(_first(request, _predictor(spec, request, None, 0)))
    pruned = [own for own in candidates if own.ratio]
    assert request.targets is not None
    if request.targets.max_kl is not None:
        pruned = [replace(way, ratio=_TYPICAL) for way in ways(request.formats, request.vocabulary)]
        pruned = (pruned * MOST_EVALUATIONS)[:MOST_EVALUATIONS]
    found = []
    for mixture in request.all_mixtures:
        tasks = tuple(mixture.weights)
        for own in [own for own in candidates if not own.ratio] + pruned:
            shrinking = [Remaining("shrinking", tasks, own.ratio)] if own.ratio else []
            is_rounded = request.grid(own.format, spec) is not None
            rounding = [Remaining("rounding", tasks, own.ratio)] if is_rounded else []
            found += [
                *shrinking,
                *rounding,
                *(Remaining(kind, tasks, own.ratio, own.format) for kind in ("writing", "quality")),
            ]
        chosen = ["parity", "validation", "quality", *(["speed"] if request.speed else [])]
        found += [Remaining(kind, tasks, _TYPICAL, request.formats[-1]) for kind in chosen]
    return tuple(found)


def search_disk(spec: ModelSpec, request: ExportRequest) -> tuple[Remaining, ...]:
    """What lies on the disk at once: the best candidate so far, the next one, and what tasks before have chosen."""
    tasks = tuple(task.name for task in request.tasks)
    widest = max(request.formats, key=lambda own: own.size(spec))
    one = (Remaining("shrinking", tasks), Remaining("writing", tasks, own=widest))
    return one * (1 + len(request.all_mixtures))


def _first(request: ExportRequest, predictor: Predictor) -> Iterator[Candidate]:
    assert request.targets is not None
    for way in ways(request.formats, request.vocabulary):
        yield way
        least = predictor.least_ratio(way, request.targets)
        if least:
            yield replace(way, ratio=least)


def _predictor(spec: ModelSpec, request: ExportRequest, tokens: int | None, beside: int) -> Predictor:
    plan = request.plan
    most = largest_ratio(spec, plan.sparsity, plan.align, plan.layout)
    usual, depth = usual_format(request.formats), timed_depth(spec, request)

    def shrunk(own: Candidate) -> ModelSpec:
        thinner = _thinner(spec, own.ratio)
        return thinner if tokens is None or own.vocabulary == "all" else thinner.with_tokens(tokens)

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
