"""Converts the figures of an evaluation to JSON values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from seap_export.common.hashing import sha256_json
from seap_export.pipeline.evaluation.material import Texts
from seap_export.pipeline.evaluation.subject import Subject
from validation.divergence.measure import DivergenceFigures
from validation.divergence.paired import PerByte
from validation.estimate import Estimate
from validation.generation import GenerationFigures
from validation.zero_shot import ZeroShotFigures

_Figures = TypeVar("_Figures")
#: Generated answers that are in the report.
_SAMPLES = 3

#: What a report says of a plan.
_OF_PLAN = ("variant", "task", "method", "score", "compensation", "requested_ratio", "achieved_ratio", "sparsity")


def by_task_json(
    figures: Mapping[str, Mapping[str, _Figures]], to_json: Callable[[_Figures], Any]
) -> dict[str, dict[str, Any]]:
    """Converts figures by form and task to JSON values."""
    return {form: {name: to_json(one) for name, one in by_task.items()} for form, by_task in figures.items()}


def plan_json(subject: Subject) -> dict[str, Any]:
    """The variant's name and how it was made; all null for a dense model."""
    plan = subject.plan
    if plan is None:
        return dict.fromkeys(_OF_PLAN)
    values = (
        subject.name,
        plan.task,
        plan.method,
        plan.settings.score,
        plan.settings.compensation,
        plan.requested_ratio,
        plan.achieved_ratio,
        vars(plan.settings.sparsity),
    )
    return dict(zip(_OF_PLAN, values, strict=True))


def divergence_json(figures: DivergenceFigures) -> dict[str, Any]:
    """The divergence from the dense model as JSON values."""
    return {
        **figures.kl.to_json(),
        "top1_agreement": figures.top1_agreement,
        "top1_agreement_stderr": figures.top1_stderr,
        "perplexity": figures.perplexity,
        "dense_perplexity": figures.dense_perplexity,
        "loss_difference_nats": None if figures.loss is None else figures.loss.mean,
        "loss_difference_nats_stderr": None if figures.loss is None else figures.loss.stderr,
        "tokens": figures.tokens,
        **_per_byte_json(figures.per_byte),
        **({} if figures.cut is None else {"vocabulary": asdict(figures.cut)}),
    }


def estimate_json(estimate: Estimate) -> dict[str, float | None]:
    """A mean and its standard error as JSON values."""
    return {"mean": estimate.mean, "stderr": estimate.stderr}


def _per_byte_json(figures: PerByte | None) -> dict[str, Any]:
    if figures is None:
        return {}
    return {
        "kl_nats_per_byte": figures.kl,
        "bits_per_byte": figures.bits,
        "dense_bits_per_byte": figures.dense_bits,
        "bytes": figures.bytes,
    }


def zero_shot_json(figures: ZeroShotFigures) -> dict[str, Any]:
    """The accuracy on questions with choices as JSON values."""
    return {key: value for key, value in asdict(figures).items() if key not in ("sha256", "right")}


def generation_json(figures: GenerationFigures) -> dict[str, Any]:
    """The exact match of generated answers, and a few samples of them, as JSON values."""
    return {
        "exact_match": figures.exact_match,
        "exact_match_stderr": figures.exact_match_stderr,
        "questions": figures.questions,
        "mean_tokens": figures.mean_tokens,
        "never_stopped": figures.never_stopped,
        "unanswered": figures.unanswered,
        "samples": [
            {"text": answer.text, "found": answer.extracted, "gold": answer.gold}
            for answer in figures.answers[:_SAMPLES]
        ],
    }


def texts_json(texts: Texts, max_length: int) -> dict[str, Any]:
    """The origin, number and digest of the texts that divergence was measured on, as JSON values."""
    return {
        "origin": texts.origin,
        "tasks": list(texts.tasks),
        "count": len(texts.texts),
        "sha256": sha256_json(list(texts.texts)),
        "seeds": list(texts.seeds),
        "max_length": max_length,
        "disjoint": texts.disjoint,
    }
