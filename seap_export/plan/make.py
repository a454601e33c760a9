"""Making a task's plan from its saved statistics, one layer of weights at a time."""

from __future__ import annotations

from collections.abc import Callable

from seap_export.activations.statistics import Calibration
from seap_export.errors import InputError
from seap_export.plan.plan import Compensation, Plan
from seap_export.plan.solve import solve_layers
from seap_export.plan.sparsity import Sparsity
from seap_export.scores import LayerScores, Score, layer_scores
from seap_export.sources.source import Source

__all__ = ["make_plan", "score_layers"]


def score_layers(
    source: Source, calibration: Calibration, score: Score, on_layer: Callable[[int], None] = lambda layer: None
) -> list[LayerScores]:
    """Importance scores of every layer.

    Raises:
        InputError: The statistics are of another model.
    """
    if calibration.record.source_sha256 != source.digest:
        raise InputError(
            f"the calibration of task '{calibration.record.task}' is of another model "
            f"('{calibration.record.source_name}'); calibrate again with this one"
        )
    family, spec = source.spec.family, source.spec
    scores = []
    for index in range(len(spec.layers)):
        names = [family.weight("o_proj", index), family.weight("down_proj", index)]
        weights = source.reader.read(names)
        o_proj, down_proj = (weights[name] for name in names)
        scores.append(layer_scores(score, o_proj, down_proj, calibration.layer(index), spec.head_dim))
        on_layer(index)
    return scores


def make_plan(
    source: Source,
    calibration: Calibration,
    scores: list[LayerScores],
    *,
    score: Score,
    ratio: float,
    sparsity: Sparsity,
    align: int,
    compensation: Compensation,
) -> Plan:
    """The plan of one variant; `scores` are `score_layers` of the same calibration."""
    layers, achieved = solve_layers(source.spec, scores, ratio, sparsity, align)
    return Plan(
        task=calibration.record.task,
        weights={calibration.record.task: 1.0},
        source_name=source.name,
        source_sha256=source.digest,
        score=score,
        sparsity=sparsity.resolved(len(layers)),
        align=align,
        compensation=compensation,
        requested_ratio=ratio,
        achieved_ratio=achieved,
        layers=layers,
    )
