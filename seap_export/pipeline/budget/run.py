"""Exports variants that meet targets: chooses one for every task, then makes and checks it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from converters.format import Format
from seap_export.model.families import ModelSpec
from seap_export.model.layers.compute import Compute, torch_threads
from seap_export.model.sources.source import Source
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pipeline.budget.baseline import baseline_format, prompts_of, timed_depth
from seap_export.pipeline.budget.candidates import Candidates, open_candidates
from seap_export.pipeline.budget.failure import close_calls, nothing_fits, refuse_unreachable
from seap_export.pipeline.budget.predictor import Predictor
from seap_export.pipeline.budget.preview import search_disk
from seap_export.pipeline.budget.search import SearchResult, search
from seap_export.pipeline.cost.checks import Disk, claim_folder, refuse_full_disk
from seap_export.pipeline.cost.sizes import Sizes
from seap_export.pipeline.export import Exported, make_variants, plan_export, prepare_answered
from seap_export.pipeline.folder.outputs import remove_unfinished
from seap_export.pipeline.folder.performance import Timed, recorded
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.prepared import Prepared
from seap_export.pipeline.progress import Progress, Silent
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.steps.build import ExportSteps
from seap_export.pipeline.steps.single.ranking import RankingStep
from seap_export.pipeline.steps.step import Made, StepContext, run_steps
from seap_export.pipeline.targets.candidate import Candidate, Point, ways
from seap_export.pipeline.targets.frontier import Frontier, frontier_json, known_figures, write_frontier
from seap_export.pruning.plan.choice.solve import largest_ratio
from seap_export.pruning.plan.make import plan_variant
from seap_export.pruning.plan.ranked import read_ranking


@dataclass(frozen=True)
class ExportedWithin:
    """The result of an export with targets."""

    exported: Exported
    frontier: Mapping[str, Any]


def export_within(
    source: Source,
    request: ExportRequest,
    out: Path,
    *,
    force: bool = False,
    compute: Compute = Compute(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> ExportedWithin:
    """Chooses the ratio and the format of every variant by the request's targets, and exports them.

    Candidates are made in a hidden folder within `out`, which is kept for a run that goes on after an interruption;
    all figures are written to frontier.json as soon as they are known.

    Raises:
        UsageError: The request contradicts itself, would replace something, or no variant can be so small or fast.
        QualityFailure: The targets cannot be met with the quality that is asked for.
        SpeedFailure: What was measured falls short of the speed-up.
        InputError, EnvironmentFailure, ArtifactError: As for `export`.
    """
    assert request.targets is not None
    refuse_unreachable(source.spec, request)
    timed, workspace = Timed(progress or Silent()), Workspace(out, force)
    prepared = prepare_answered(source, request, workspace, compute, None, timed)
    planned = plan_export(prepared, workspace)
    steps, sizes = planned.steps, planned.sizes
    refuse_full_disk(Disk(unfinished=search_disk(request, sizes)), out)
    with workspace.locked(), torch_threads(request.parity.threads):
        claim_folder(workspace, source, steps.calibration_keys)
        with recorded(workspace.folder, timed):
            choices, values = _choose(prepared, steps, workspace, StepContext(source, out, compute, timed), sizes)
    chosen = replace(prepared, request=replace(request, choices=choices))
    return ExportedWithin(make_variants(chosen, workspace, compute, None, timed), values)


def _choose(
    prepared: Prepared, steps: ExportSteps, workspace: Workspace, work: StepContext, sizes: Sizes
) -> tuple[dict[str, Candidate], dict[str, Any]]:
    """A candidate for every task and mixture, and the content of frontier.json."""
    source, request, vocabularies = prepared.source, prepared.request, prepared.vocabularies or {}
    targets, baseline = request.targets, baseline_format(request.formats)
    assert targets is not None
    run_steps(steps.of_tasks, Made(work, workspace))
    known, tasks = known_figures(work.folder), dict[str, Frontier]()

    def note(task: str, result: SearchResult) -> dict[str, Any]:
        """Writes frontier.json with what is known so far."""
        chosen = None if result.chosen is None else result.chosen.candidate
        ends = result.soonest_ms, result.smallest_bytes
        tasks[task] = Frontier(result.points, chosen, *ends, candidates.guesses.get(task))
        values = frontier_json(targets, f"{baseline.name} {baseline.precision}", tasks)
        write_frontier(values, work.folder)
        return values

    values = dict[str, Any]()
    with open_candidates(request, baseline, work, prepared.splits, vocabularies, known) as candidates:
        for task, ranking in steps.rankings.items():
            kept, depth = vocabularies.get(task), timed_depth(source.spec, request)
            predictor = _predictor(request, source, ranking, kept, work, baseline, depth, sizes)
            result = _search(request, ranking, candidates, predictor, baseline, partial(note, task))
            values = note(task, result)
        failure = nothing_fits(targets, tasks)
        choices = {task: frontier.chosen for task, frontier in tasks.items() if frontier.chosen is not None}
        for task, chosen in choices.items() if failure is None else ():
            candidates.hand_over(steps.rankings[task], chosen, workspace)
    for line in close_calls(targets, tasks) if failure is None else ():
        work.progress.warn(line)
    if failure is not None:
        remove_unfinished(work.folder)
        raise failure
    return choices, values


def _search(
    request: ExportRequest,
    ranking: RankingStep,
    candidates: Candidates,
    predictor: Predictor,
    baseline: Format,
    note: Callable[[SearchResult], object],
) -> SearchResult:
    """The search for one task; candidates that were beaten leave the hidden folder."""
    assert request.targets is not None
    points: list[Point] = []
    kept = [Candidate(0.0, baseline)] if request.targets.of_speed else []
    best: list[Candidate] = []

    def evaluate(candidate: Candidate) -> Point | None:
        candidates.keep(ranking, [*kept, *best[-1:], candidate])
        point = candidates.evaluate(ranking, candidate, predictor)
        if point is not None:
            points.append(point)
            note(SearchResult(None, tuple(points)))
        return point

    result = search(
        ways(request.formats, request.vocabulary),
        request.targets,
        predictor,
        evaluate,
        partial(candidates.time, ranking),
        lambda point: best.append(point.candidate),
        partial(candidates.guess, ranking),
    )
    candidates.keep(ranking, best[-1:])
    return result


def _predictor(
    request: ExportRequest,
    source: Source,
    ranking: RankingStep,
    kept: Vocabulary | None,
    work: StepContext,
    baseline: Format,
    depth: int,
    sizes: Sizes,
) -> Predictor:
    settings, statistics = ranking.settings, ranking.statistics(work)
    ranked = read_ranking(source.spec, work.of_task(ranking))
    most = largest_ratio(source.spec, settings.sparsity, settings.align, settings.layout)

    @cache
    def pruned(ratio: float) -> ModelSpec:
        return plan_variant(source, statistics, ranked, settings, ratio).shrunk_spec(source.spec)

    def beside(candidate: Candidate) -> int:
        return sizes.variant(0.0, None if candidate.vocabulary == "all" else kept).beside_weights(candidate.format)

    def shrunk(candidate: Candidate) -> ModelSpec:
        spec = pruned(candidate.ratio)
        return spec if kept is None or candidate.vocabulary == "all" else spec.with_tokens(len(kept))

    return Predictor(shrunk, most, baseline, depth, beside, prompts_of(request))
