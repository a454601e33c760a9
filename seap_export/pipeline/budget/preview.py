"""The candidates that a search begins with, and the disk space that it takes, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converters.hf.format import HfFormat
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pipeline.budget.baseline import baseline_format, prompts_of, timed_depth
from seap_export.pipeline.budget.predictor import Predictor
from seap_export.pipeline.budget.search import first_tried, is_exact
from seap_export.pipeline.cost.sizes import Sizes
from seap_export.pipeline.folder.names import variant_name
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.targets.candidate import Candidate, ways
from seap_export.pruning.plan.choice.solve import largest_ratio


def first_candidates(
    request: ExportRequest, vocabularies: Mapping[str, Vocabulary], dense: Sizes
) -> tuple[dict[str, Any], ...]:
    """The dense model in every way that is made, and the next candidates if rounding and pruning cost the usual.

    A rounded model that does not fit is tried as well: it tells what its rounding costs, and so what pruning does.

    Args:
        vocabularies: The tokens that candidates of each task and mixture keep, unless they keep all.
    """
    predictors = _predictors(request, vocabularies, dense)
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


def search_disk(request: ExportRequest, dense: Sizes) -> int:
    """The bytes of a search: the best candidate so far, the next one, and those chosen for earlier tasks.

    All count as the dense model, which is the most. With a target for the speed, that is there, too.
    """
    spec, targets = dense.spec, request.targets
    assert targets is not None
    every = [way.format for way in ways(request.formats, "all")]
    made = [one for one in every if not is_exact(Candidate(0.0, one), one.size(spec), targets)] or every
    rounded = dense.folder(HfFormat("fp32")) if any(request.grid(one, spec) for one in made) else 0
    candidate = dense.folder(dense.stored) + rounded + max(map(dense.folder, made))
    timed = dense.folder(baseline_format(every)) if targets.of_speed else 0
    return candidate * (1 + len(request.all_mixtures)) + timed


def _first(request: ExportRequest, predictor: Predictor) -> list[Candidate]:
    """The candidates made first; the search also counts unquantised models that are too large, which are not made."""
    targets = request.targets
    assert targets is not None
    tried = first_tried(ways(request.formats, request.vocabulary), targets, predictor)
    return [candidate for candidate in tried if not is_exact(candidate, predictor.bytes(candidate), targets)]


def _predictors(request: ExportRequest, vocabularies: Mapping[str, Vocabulary], dense: Sizes) -> dict[str, Predictor]:
    """The predictor of sizes and speed-ups for each task and mixture, by name."""
    names = [mixture.name for mixture in request.all_mixtures]
    return {name: _predictor(request, vocabularies.get(name), dense) for name in names}


def _predictor(request: ExportRequest, kept: Vocabulary | None, dense: Sizes) -> Predictor:
    plan, spec = request.plan, dense.spec
    most = largest_ratio(spec, plan.sparsity, plan.align, plan.layout)

    def sizes(candidate: Candidate, ratio: float = 0.0) -> Sizes:
        return dense.variant(ratio, None if candidate.vocabulary == "all" else kept)

    return Predictor(
        lambda candidate: sizes(candidate, candidate.ratio).spec,
        most,
        baseline_format(request.formats),
        timed_depth(spec, request),
        lambda candidate: sizes(candidate).beside_weights(candidate.format),
        prompts_of(request),
    )
