"""The time of an export's main work: one layer is calibrated, ranked and refitted on a few texts, the rest scaled."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from seap_export.model.families import Experts
from seap_export.model.layers.compute import Compute
from seap_export.model.sources.source import Source
from seap_export.pipeline.steps.build import ExportSteps
from seap_export.pipeline.steps.single.calibration import CalibrationStep
from seap_export.pipeline.steps.single.ranking import RankingStep
from seap_export.pipeline.steps.single.variant import ShrinkStep
from seap_export.pipeline.steps.step import PathStep
from seap_export.pipeline.texts.split_tasks import tokenize
from seap_export.pruning.activations.calibrate import collect_statistics
from seap_export.pruning.activations.statistics import Calibration, CalibrationRecord, write_record
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.plan.choice.solve import largest_ratio
from seap_export.pruning.plan.make import plan_variant, rank_layers
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.plan.settings import PlanSettings
from seap_export.pruning.plan.sparsity import Sparsity
from seap_export.pruning.shrink.sequential import SequentialLayers

#: Tokens of the two runs, whose difference is the time of a token.
_FEW, _MORE = 256, 1024
#: The fewest layers that run. The last one is timed: what comes before the first is not the time of a layer.
_LAYERS = 2
_RATIO, _TASK = 0.3, "timed"


class _Clock:
    """Seconds from layer to layer, of which the last ones are kept."""

    def __init__(self) -> None:
        self._since, self.seconds = time.perf_counter(), 0.0

    def layer(self, done: object) -> None:
        """Ends a layer and begins the next one."""
        now = time.perf_counter()
        self.seconds, self._since = now - self._since, now


def measured_seconds(
    source: Source, steps: ExportSteps, missing: Sequence[PathStep], compute: Compute
) -> dict[str, float]:
    """About how many seconds the missing calibrations, rankings and refits take; of other steps nothing is known.

    With targets, which choose variants later, one of each task and mixture counts.
    """
    if not any(isinstance(step, CalibrationStep | RankingStep | ShrinkStep) for step in missing):
        return {}
    first, *_ = steps.rankings.values()
    task = first.calibrations[0]
    ids = tokenize(source, {task.task: task.split.calibration}, task.settings.max_length)[task.task]
    few, more = _first_tokens(ids, _FEW), _first_tokens(ids, _MORE)
    with TemporaryDirectory() as folder:
        timed = _TimedLayer(source, first.settings, compute, Path(folder))
        long, short = timed.seconds(more), timed.seconds(few)

    def all_layers(kind: str, tokens: int) -> float:
        """On the line through both runs: a part for each token, and a part for none."""
        (x, y), (other_x, other_y) = (_number(more), long[kind]), (_number(few), short[kind])
        each = max(0.0, (y - other_y) / (x - other_x)) if x > other_x else y / x
        return timed.layers * (max(0.0, y - each * x) + each * tokens)

    calibrated = [step.split.num_tokens or 0 for step in missing if isinstance(step, CalibrationStep)]
    refitted = [step.plan.ranking for step in missing if isinstance(step, ShrinkStep) and step.plan.ratio]
    refitted = refitted if steps.targets is None else list(steps.rankings.values())
    learnt = [max(of.num_tokens, len(of.tasks) * of.settings.fresh) for of in refitted if of.settings.is_refitted]
    return {
        "calibration": sum(all_layers("calibration", tokens) for tokens in calibrated),
        "ranking": timed.layers * long["ranking"] * sum(isinstance(step, RankingStep) for step in missing),
        "refit": sum(all_layers("refit", tokens) for tokens in learnt),
    }


class _TimedLayer:
    """The first layers of a model, of which the last one is timed.

    Attributes:
        layers: How many of these layers have as many weights as the whole model.
    """

    def __init__(self, source: Source, settings: PlanSettings, compute: Compute, folder: Path) -> None:
        spec = source.spec
        kinds = [{type(one) for one in layer.sublayers} for layer in spec.layers]
        number = max(_LAYERS, 1 + next((index for index, kind in enumerate(kinds) if Experts in kind), 0))
        self._source = replace(source, spec=spec.with_layers(spec.layers[:number]), files=())
        self._settings = replace(settings, sparsity=Sparsity("uniform", protect_first=0, protect_last=0))
        self._compute, self._folder = compute, folder
        self._plan: Plan | None = None
        weights = list(map(spec.prunable_weights, range(len(spec.layers))))
        self.layers = sum(weights) / weights[len(self._source.spec.layers) - 1]

    def seconds(self, ids: Sequence[Sequence[int]]) -> dict[str, float]:
        """The seconds of the timed layer; its ranking does not depend on the texts, and is made by the first call."""
        source, compute, calibrating, ranking, refitting = self._source, self._compute, _Clock(), _Clock(), _Clock()
        folder = self._folder / str(_number(ids))
        folder.mkdir(exist_ok=True)
        collect_statistics(source, ids, folder, compute, check=False, on_layer=calibrating.layer)
        record = CalibrationRecord(_TASK, source.name, source.digest, 0, _MORE, _number(ids), (), (), ())
        write_record(folder, record)
        statistics = TaskMixture(_TASK, {_TASK: 1.0}, {_TASK: Calibration(folder)})
        if self._plan is None:
            ranked = folder / "ranking"
            ranked.mkdir()
            settings, ranking = self._settings, _Clock()
            ranks = rank_layers(source, statistics, settings, ranked, ranking.layer, compute=compute)
            most = largest_ratio(source.spec, settings.sparsity, settings.align, settings.layout)
            self._plan = plan_variant(source, statistics, ranks, settings, min(_RATIO, most))
        if self._settings.is_refitted:
            refitting = _Clock()
            for tensors in SequentialLayers(source, self._plan, statistics, folder, compute).layers(0):
                refitting.layer(tensors)
        return {"calibration": calibrating.seconds, "ranking": ranking.seconds, "refit": refitting.seconds}


def _number(ids: Sequence[Sequence[int]]) -> int:
    return sum(map(len, ids))


def _first_tokens(ids: Sequence[Sequence[int]], most: int) -> list[Sequence[int]]:
    """The first texts, of which the last is cut, so that they have no more tokens."""
    first = list[Sequence[int]]()
    for text in ids:
        if (left := most - _number(first)) > 0:
            first.append(text[:left])
    return first
