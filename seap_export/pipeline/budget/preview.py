"""Estimates the work of a search for candidates, and lists those it begins with, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from seap_export.model.families import ModelSpec
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pipeline.budget.baseline import baseline_format, prompts_of, timed_depth
from seap_export.pipeline.budget.predictor import Predictor
from seap_export.pipeline.budget.search import MOST_EVALUATIONS, first_tried, is_exact
from seap_export.pipeline.cost.workload import Workload
from seap_export.pipeline.folder.names import variant_name
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.steps.joint.quality import QualityStep
from seap_export.pipeline.steps.joint.speed import SpeedStep
from seap_export.pipeline.steps.joint.validation import ValidationStep
from seap_export.pipeline.steps.planned_work import PlannedWork
from seap_export.pipeline.steps.single.formats import FormatStep, ParityStep
from seap_export.pipeline.steps.single.guess import GuessStep
from seap_export.pipeline.steps.single.rounding import RoundingStep
from seap_export.pipeline.steps.single.variant import ShrinkStep
from seap_export.pipeline.targets.candidate import Candidate, ways
from seap_export.pruning.plan.choice.solve import largest_ratio
from seap_export.pruning.plan.sublayers import thinner_layer

#: A ratio that stands for those that KL alone decides, and one of a candidate that takes about the most space.
_TYPICAL, _LEAST = 0.4, 0.01


def first_candidates(
    spec: ModelSpec, request: ExportRequest, vocabularies: Mapping[str, Vocabulary], work: Workload
) -> tuple[dict[str, Any], ...]:
    """The dense model in every way that is made, and the next candidates if rounding and pruning cost the usual.

    A rounded model that does not fit is tried as well: it tells what its rounding costs, and so what pruning does.

    Args:
        vocabularies: The tokens that candidates of each task and mixture keep, unless they keep all.
    """
    predictors = _predictors(spec, request, vocabularies, work)
    return tuple(
        {
            "variant": variant_name(mixture.name, candidate.ratio),
            "format": candidate.format.name,
            "precision": candidate.format.precision,
            "vocabulary": candidate.vocabulary,
            "bytes_about": predictors[mixture.name].bytes(candidate),
            "fits": request.targets is None or predictors[mixture.name].meets(candidate, request.targets),
            "decode_ideal_speedup": predictors[mixture.name].ideal_speedup(candidate),
            **_first_token(predictors[mixture.name].first_token_ms(candidate)),
        }
        for mixture in request.all_mixtures
        for candidate in _first(request, predictors[mixture.name])
    )


def _first_token(ms: float | None) -> dict[str, float]:
    return {} if ms is None else {"first_token_ms_about": ms}


def search_work(
    spec: ModelSpec, request: ExportRequest, vocabularies: Mapping[str, Vocabulary], work: Workload
) -> tuple[PlannedWork, ...]:
    """The work that a search adds to an export, and the checks of its choices; with a limit of KL, about the most.

    Candidates count with the tokens that they keep. What is chosen counts with the most that it may keep: with
    `--vocabulary auto`, all.

    Args:
        vocabularies: The tokens that candidates of each task and mixture keep, unless they keep all.
    """
    predictors = _predictors(spec, request, vocabularies, work)
    is_cut = all(way.vocabulary != "all" for way in ways(request.formats, request.vocabulary))
    parts = list[PlannedWork]()
    guessed = [GuessStep.cost] if any(format.average is not None for format in request.formats) else []
    for mixture in request.all_mixtures:
        parts += [PlannedWork(cost, tuple(mixture.weights)) for cost in guessed]
        tasks, kept = tuple(mixture.weights), vocabularies.get(mixture.name)
        for candidate in _tried(request, predictors[mixture.name]):
            vocabulary = None if candidate.vocabulary == "all" else kept
            shrinking = [ShrinkStep.cost] if candidate.ratio else []
            rounding = [RoundingStep.cost] if request.grid(candidate.format, spec) is not None else []
            parts += [PlannedWork(cost, tasks, candidate.ratio, None, vocabulary) for cost in shrinking + rounding]
            measuring = FormatStep.cost, QualityStep.cost
            parts += [PlannedWork(cost, tasks, candidate.ratio, candidate.format, vocabulary) for cost in measuring]
        chosen = [ParityStep.cost, ValidationStep.cost, QualityStep.cost, *([SpeedStep.cost] if request.speed else [])]
        most = kept if is_cut else None
        parts += [PlannedWork(cost, tasks, _TYPICAL, request.formats[-1], most) for cost in chosen]
    return tuple(parts)


def search_disk(spec: ModelSpec, request: ExportRequest) -> tuple[PlannedWork, ...]:
    """The disk space of a search: the best candidate so far, the next one, and those chosen for earlier tasks.

    All count with the whole vocabulary, which is the most. With a target for the speed, the dense model is there, too.
    """
    tasks, targets = tuple(task.name for task in request.tasks), request.targets
    assert targets is not None
    every = [way.format for way in ways(request.formats, "all")]
    made = [one for one in every if not is_exact(Candidate(0.0, one), one.size(spec), targets)] or every
    kinds = [ShrinkStep.cost, *([RoundingStep.cost] if any(request.grid(one, spec) for one in made) else [])]
    widest = max(made, key=lambda format: format.size(spec))
    one = (
        *(PlannedWork(cost, tasks, _LEAST) for cost in kinds),
        PlannedWork(FormatStep.cost, tasks, format=widest),
    )
    timed = (PlannedWork(FormatStep.cost, tasks, format=baseline_format(every)),) if targets.of_speed else ()
    guess = (PlannedWork(GuessStep.cost, tasks),) if any(format.average is not None for format in every) else ()
    return one * (1 + len(request.all_mixtures)) + timed + guess


def _tried(request: ExportRequest, predictor: Predictor) -> list[Candidate]:
    """About what is made for a task; with a limit of KL, as many pruned candidates as there may be."""
    first = _first(request, predictor)
    assert request.targets is not None
    if request.targets.max_kl is None:
        return first
    typical = [replace(way, ratio=_TYPICAL) for way in ways(request.formats, request.vocabulary)]
    return [candidate for candidate in first if not candidate.ratio] + (typical * MOST_EVALUATIONS)[:MOST_EVALUATIONS]


def _first(request: ExportRequest, predictor: Predictor) -> list[Candidate]:
    """The candidates made first; the search also counts unquantised models that are too large, which are not made."""
    targets = request.targets
    assert targets is not None
    tried = first_tried(ways(request.formats, request.vocabulary), targets, predictor)
    return [candidate for candidate in tried if not is_exact(candidate, predictor.bytes(candidate), targets)]


def _predictors(
    spec: ModelSpec, request: ExportRequest, vocabularies: Mapping[str, Vocabulary], work: Workload
) -> dict[str, Predictor]:
    """The predictor of sizes and speed-ups for each task and mixture, by name."""
    names = [mixture.name for mixture in request.all_mixtures]
    return {name: _predictor(spec, request, vocabularies.get(name), work) for name in names}


def _predictor(spec: ModelSpec, request: ExportRequest, kept: Vocabulary | None, work: Workload) -> Predictor:
    plan = request.plan
    most = largest_ratio(spec, plan.sparsity, plan.align, plan.layout)
    baseline, depth = baseline_format(request.formats), timed_depth(spec, request)

    def shrunk(candidate: Candidate) -> ModelSpec:
        fraction = 1 - candidate.ratio
        thinner = spec.with_layers(tuple(thinner_layer(layer, spec.hidden_size, fraction) for layer in spec.layers))
        return thinner if kept is None or candidate.vocabulary == "all" else thinner.with_tokens(len(kept))

    def beside(candidate: Candidate) -> int:
        return work.with_tokens(None if candidate.vocabulary == "all" else kept).beside_weights(candidate.format)

    return Predictor(shrunk, most, baseline, depth, beside, prompts_of(request))
