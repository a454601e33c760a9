"""Quality against ratio, read from evaluation reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from seap_export.common.providers import OWN_FORMAT
from seap_export.errors import ArtifactError, UsageError
from seap_export.pipeline.folder.names import HF

EVALUATION_SCHEMA = "seap-export/evaluation/2"
#: Largest relative difference of one dense model's results on the same texts, due to rounding on different machines.
_DENSE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class QualityPoint:
    """The results of one evaluation of a variant: a point in the figures.

    Attributes:
        achieved_ratio: Fraction of the budget removed, at least 0 and below 1.
        mean_kl_nats: Mean KL divergence from the dense model, nats per token.
        digests: SHA-256 of the texts and of each benchmark's questions, if the report has them.
        stderr: Standard errors, as far as the report has them: `mean_kl_nats`, and the accuracy in each benchmark.
    """

    variant: str
    task: str
    settings: tuple[str, ...]
    form: str | None
    achieved_ratio: float
    mean_kl_nats: float | None
    perplexity: float | None
    dense_perplexity: float | None
    accuracy: Mapping[str, float]
    dense_accuracy: Mapping[str, float]
    digests: Mapping[str, str]
    stderr: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 <= self.achieved_ratio < 1.0:
            raise ValueError("achieved_ratio must be at least 0 and below 1")
        if self.mean_kl_nats is None and self.perplexity is None and not self.accuracy:
            raise ValueError("neither divergence nor zero_shot has a result")
        if any(value is not None and not value > 0.0 for value in (self.perplexity, self.dense_perplexity)):
            raise ValueError("a perplexity must be positive")
        if not all(0.0 <= value <= 1.0 for value in (*self.accuracy.values(), *self.dense_accuracy.values())):
            raise ValueError("an accuracy must be from 0 to 1")


def parse_evaluation(report: Mapping[str, Any], name: str) -> QualityPoint:
    """Reads an evaluation report: the results of the safetensors form (`hf`), of ONNX, or of what was run."""
    if report.get("schema") != EVALUATION_SCHEMA:
        raise ArtifactError(
            f"{name}: evaluation schema is {report.get('schema')!r}, expected {EVALUATION_SCHEMA!r}; evaluate again"
        )
    if report.get("variant", "") is None:
        raise ArtifactError(f"{name}: the evaluated model has no plan; evaluate a variant's folder")
    try:
        return _parse(report)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"{name}: not a valid evaluation ({what}); run 'seap-export evaluate' again") from error


def _parse(report: Mapping[str, Any]) -> QualityPoint:
    divergence, zero_shot = report.get("divergence") or {}, report.get("zero_shot") or {}
    generation = report.get("generation") or {}
    with_questions = [form for form in (*zero_shot, *generation) if form != "dense"]
    form = next(
        (form for form in (HF, OWN_FORMAT, *divergence, *with_questions) if form in (*divergence, *with_questions)),
        None,
    )
    figures = divergence.get(form) or {}
    sparsity = report["sparsity"]
    settings = (
        report["method"] or "SEAP",
        report["score"],
        sparsity["kind"] if isinstance(sparsity, Mapping) else sparsity,
        report["compensation"],
    )
    return QualityPoint(
        variant=str(report["variant"]),
        task=str(report["task"]),
        settings=tuple(str(setting) for setting in settings),
        form=form,
        achieved_ratio=_number(report["achieved_ratio"]),
        mean_kl_nats=_number(figures["mean_kl_nats"]) if figures else None,
        perplexity=_finite(figures["perplexity"]) if figures else None,
        dense_perplexity=_finite(figures["dense_perplexity"]) if figures else None,
        accuracy=_accuracies(zero_shot.get(form) or {}, generation.get(form) or {}),
        dense_accuracy=_accuracies(zero_shot.get("dense") or {}, generation.get("dense") or {}),
        digests=_digests(report),
        stderr=_errors(figures, zero_shot.get(form) or {}, generation.get(form) or {}),
    )


def _errors(figures: Mapping[str, Any], *by_kind: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The standard errors in a report, by figure or benchmark."""
    errors = {"mean_kl_nats": figures.get("mean_kl_nats_stderr")}
    for results in by_kind:
        for benchmark, result in results.items():
            errors[benchmark] = result.get("acc_stderr", result.get("exact_match_stderr"))
    return {name: _number(error) for name, error in errors.items() if error is not None}


def _digests(report: Mapping[str, Any]) -> dict[str, str]:
    origins = {"texts": report.get("texts") or {}}
    origins |= {f"questions of {benchmark}": origin for benchmark, origin in (report.get("tasks") or {}).items()}
    return {what: str(origin["sha256"]) for what, origin in origins.items() if "sha256" in origin}


def _accuracies(
    chosen: Mapping[str, Mapping[str, Any]], generated: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """The accuracy of choices and the exact match of generated answers, by benchmark."""
    accuracy = {benchmark: _number(result["acc"]) for benchmark, result in chosen.items()}
    accuracy |= {benchmark: _number(result["exact_match"]) for benchmark, result in generated.items()}
    return dict(sorted(accuracy.items()))


def _finite(perplexity: Any) -> float | None:
    """Converts a perplexity; one too large for a float is null or Infinity in a report."""
    return None if perplexity is None or perplexity == math.inf else _number(perplexity)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def refuse_incomparable(points: Sequence[QualityPoint]) -> None:
    """Rejects points that cannot share a figure: those of a task must have the same texts and dense results."""
    digests: dict[tuple[str, str], str] = {}
    levels: dict[tuple[str, str], float] = {}
    for point in points:
        for what, digest in point.digests.items():
            if digests.setdefault((point.task, what), digest) != digest:
                raise UsageError(
                    f"the evaluations of task '{point.task}' have different {what}; evaluate all of them alike"
                )
        for what, level in _dense_levels(point).items():
            first = levels.setdefault((point.task, what), level)
            if not math.isclose(first, level, rel_tol=_DENSE_TOLERANCE):
                raise UsageError(
                    f"the evaluations of task '{point.task}' cannot be compared: the dense model's {what} is "
                    f"{first:g} in one and {level:g} in another; evaluate all of them alike"
                )


def _dense_levels(point: QualityPoint) -> dict[str, float]:
    levels = {f"accuracy in {benchmark}": level for benchmark, level in point.dense_accuracy.items()}
    return levels if point.dense_perplexity is None else {"perplexity": point.dense_perplexity, **levels}


def series_names(points: Sequence[QualityPoint]) -> tuple[str, ...]:
    """A name for each point's line: its method, and those other settings in which the points differ."""
    columns = list(zip(*(point.settings for point in points), strict=True))
    telling = [0, *(index for index, column in enumerate(columns) if index and len(set(column)) > 1)]
    return tuple(", ".join(point.settings[index] for index in telling) for point in points)
