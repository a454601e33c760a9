"""Makes a variant's plan from saved statistics, one layer of weights at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from seap_export.errors import InputError, UsageError
from seap_export.model.families import Experts, names
from seap_export.model.families.names import Projection
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.kept import UNFINISHED, keep_tensors
from seap_export.model.sources.source import Source
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pruning.activations.statistics import Calibration
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.plan.choice.solve import solve_layers
from seap_export.pruning.plan.choice.uniform import solve_uniform
from seap_export.pruning.plan.layer_options import options_from_elimination
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.plan.ranked import (
    Ranking,
    finish_ranking,
    is_finished,
    layer_file,
    read_ranking,
    read_tensors,
    write_options,
    write_scores,
)
from seap_export.pruning.plan.recipes import method_of
from seap_export.pruning.plan.settings import PlanSettings, ScoreMix
from seap_export.pruning.plan.sublayers import LayerOptions, options_type
from seap_export.pruning.scores import (
    EXPERT_SCORES,
    ChannelScore,
    ExpertScore,
    LayerScores,
    expert_scores,
    layer_scores,
)


def rank_layers(
    source: Source,
    statistics: TaskMixture,
    settings: PlanSettings,
    folder: Path,
    on_layer: Callable[[int], None] = lambda layer: None,
    *,
    compute: Compute,
) -> Ranking:
    """Ranks the channels of every sublayer by the settings; the ranking serves plans of any ratio.

    Args:
        source: The dense model.
        settings: The score and what it depends on.
        folder: Where the ranking is kept, for `read_ranking`. It is empty, or has what an interrupted call with the
            same arguments left.
        on_layer: Called with the index of every finished layer.
        compute: Where elimination runs.

    Raises:
        InputError: The statistics come from another model.
        UsageError: The score is for experts, and the model has none.
    """
    if settings.score in EXPERT_SCORES and not any(source.spec.all(Experts)):
        raise UsageError(f"the score '{settings.score}' is for experts, and this model has none; use another recipe")
    if statistics.source_sha256 != source.digest:
        raise InputError(
            f"the calibration of '{statistics.name}' was made with another model; calibrate again with this one"
        )
    # The last file to be written tells that only the working files may be left to remove.
    if not is_finished(folder, len(source.spec.layers)):
        if settings.score == "elimination":
            for index in range(len(source.spec.layers)):
                if not layer_file(folder, index).exists():
                    write_options(folder, index, _eliminate(source, statistics, index, settings.ridge, compute))
                on_layer(index)
        else:
            by_task = _scores_by_task(
                source, statistics, folder / UNFINISHED, on_layer, settings.score, settings.square_heads
            )
            for index, scores in enumerate(_mixed(statistics, by_task, settings.mix)):
                write_scores(folder, index, scores)
        finish_ranking(folder, statistics.sensitivity())
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    return read_ranking(source.spec, folder)


def _scores_by_task(
    source: Source,
    statistics: TaskMixture,
    folder: Path,
    on_layer: Callable[[int], None],
    score: ChannelScore | ExpertScore,
    square_heads: bool,
) -> dict[str, list[LayerScores]]:
    """The scores of every task and layer; each layer's are kept in a file."""
    folder.mkdir(exist_ok=True)
    by_task: dict[str, list[LayerScores]] = {task: [] for task in statistics.calibrations}
    for index in range(len(source.spec.layers)):
        path = layer_file(folder, index)
        if not path.exists():
            tensors: dict[str, torch.Tensor] = {}
            for task, calibration in statistics.calibrations.items():
                scores = _scores(source, calibration, index, score, square_heads)
                tensors |= {f"{task}.{output}": channels for output, channels in scores.items()}
            keep_tensors(path, tensors)
        stored = read_tensors(path)
        for task, layers in by_task.items():
            names_of = {output: f"{task}.{output}" for output in source.spec.layers[index].outputs}
            layers.append({output: stored[name] for output, name in names_of.items() if name in stored})
        on_layer(index)
    return by_task


def _output_weights(source: Source, index: int) -> dict[Projection, torch.Tensor]:
    """A layer's output projections, their rows times the gains of the norms after them where there are such.

    To first order, the error that a removed channel makes in the stream goes through that gain, and through a factor
    of each token that the sensitivity contains.
    """
    weights: dict[Projection, torch.Tensor] = {}
    for sublayer in source.spec.layers[index].sublayers:
        name = names.weight(sublayer.output, index)
        gains = [names.tensor(norm, index) for norm in sublayer.norms_behind]
        tensors = source.reader.read([name, *gains])
        weight = tensors[name]
        for gain in gains:
            weight = tensors[gain].float().unsqueeze(1) * weight.float()
        weights[sublayer.output] = weight
    return weights


def _eliminate(source: Source, statistics: TaskMixture, index: int, ridge: float, compute: Compute) -> LayerOptions:
    sublayers = source.spec.layers[index].sublayers
    return options_from_elimination(
        source.spec,
        index,
        _output_weights(source, index),
        {sublayer.output: options_type(sublayer).statistics(statistics, index) for sublayer in sublayers},
        ridge=ridge / statistics.effective_tokens,  # as in `shrink.refit`
        device=compute.device,
    )


def _scores(
    source: Source, calibration: Calibration, index: int, score: ChannelScore | ExpertScore, square_heads: bool
) -> LayerScores:
    layer = source.spec.layers[index]
    if score == "wifv" or score == "wifn":
        weights = _output_weights(source, index)
        return layer_scores(score, weights, calibration.layer(index), layer, square_heads=square_heads)
    return {
        sublayer.output: expert_scores(score, sublayer, calibration.routing(index, sublayer.output), seed=index)
        for sublayer in layer.sublayers
        if isinstance(sublayer, Experts)
    }


def _mixed(statistics: TaskMixture, by_task: dict[str, list[LayerScores]], mix: ScoreMix) -> tuple[LayerScores, ...]:
    """The weighted sum of the tasks' scores; those of a single task stay as they are."""
    if len(by_task) == 1:
        return tuple(next(iter(by_task.values())))
    factors = [
        statistics.weights[task] / (_total(scores) if mix == "scaled" else 1.0) for task, scores in by_task.items()
    ]
    layers = zip(*by_task.values(), strict=True)
    return tuple(
        {
            output: torch.stack([factor * scores[output] for factor, scores in zip(factors, layer, strict=True)]).sum(
                0
            )
            for output in layer[0]
        }
        for layer in layers
    )


def _total(scores: list[LayerScores]) -> float:
    total = sum(float(sum(channels.sum() for channels in layer.values())) for layer in scores)
    return total or 1.0  # all scores are 0: nothing to scale


def plan_variant(
    source: Source,
    statistics: TaskMixture,
    ranking: Ranking,
    settings: PlanSettings,
    ratio: float,
    vocabulary: Vocabulary | None = None,
) -> Plan:
    """The plan of one variant; `ranking` is `rank_layers` of the same statistics and settings."""
    spec, sensitivity = source.spec, ranking.sensitivity.numpy()
    options = [tuple(sublayer.preferring(settings.group_tolerance) for sublayer in layer) for layer in ranking.options]
    if settings.layout == "uniform":
        layers, achieved = solve_uniform(spec, options, ratio, settings.align, settings.balance, sensitivity)
    else:
        layers, achieved = solve_layers(
            spec,
            options,
            ratio,
            settings.sparsity,
            settings.align,
            settings.balance,
            scores=ranking.scores,
            sensitivity=sensitivity,
        )
    return Plan(
        task=statistics.name,
        weights=statistics.weights,
        source_name=source.name,
        source_sha256=source.digest,
        method=method_of(settings, len(layers)),
        settings=settings.resolved(len(layers)).effective(statistics.num_tokens),
        requested_ratio=ratio,
        achieved_ratio=achieved,
        layers=layers,
        vocabulary=vocabulary,
    )
