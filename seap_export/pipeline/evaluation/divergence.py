"""How far the predictions of a variant are from the dense model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from seap_export.model.layers.compute import Compute
from seap_export.pipeline.evaluation.material import chosen_texts
from seap_export.pipeline.evaluation.report import EvaluationReport
from seap_export.pipeline.evaluation.request import EvaluationRequest
from seap_export.pipeline.evaluation.subject import Subject
from seap_export.pipeline.evaluation.texts import paired_texts
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.texts.general_text import ElsewhereFigures, TextSet
from seap_export.runtime.session import available_threads
from validation.divergence.dense import DenseAnswers
from validation.divergence.measure import DivergenceFigures, claim_texts, measure_divergences
from validation.divergence.paired import PairedText


def divergence_texts(subject: Subject, request: EvaluationRequest) -> tuple[PairedText, ...]:
    """The texts that a variant and its dense model are compared on, as the tokens of both."""
    texts = chosen_texts(subject, request)
    if texts is None:
        raise ValueError("a divergence needs a variant and its dense model")
    return _pairs(subject, request, texts.texts)


def _pairs(subject: Subject, request: EvaluationRequest, texts: Sequence[str]) -> tuple[PairedText, ...]:
    if subject.dense is None:
        raise ValueError("a divergence needs a variant and its dense model")
    most = min(request.max_length, subject.dense.spec.max_position_embeddings)
    return paired_texts(subject, subject.dense, subject.artifact(request.tokenizer_folder), texts, most)


def text_sets(subject: Subject, request: EvaluationRequest, texts: Mapping[str, Sequence[str]]) -> dict[str, TextSet]:
    """Further sets of texts, tokenized as those of `divergence_texts`; one without a token to predict is left out."""
    tasks = {} if subject.plan is None else subject.plan.weights
    sets = {
        name: TextSet(tuple(of_set), name in tasks, _pairs(subject, request, of_set)) for name, of_set in texts.items()
    }
    return {name: text_set for name, text_set in sets.items() if text_set.is_long_enough}


def divergence_report(
    subject: Subject,
    request: EvaluationRequest,
    answers: DenseAnswers,
    *,
    elsewhere: Mapping[str, TextSet] = MappingProxyType({}),
    compute: Compute | None = None,
    on_progress: Callable[[str], object] | None = None,
) -> EvaluationReport:
    """The divergence of a variant alone, from answers of the dense model that may serve other variants too."""
    sets = [divergence_texts(subject, request), *(text_set.pairs for text_set in elsewhere.values())]
    references = [(answers.reference([pair.dense for pair in pairs]), pairs) for pairs in sets]
    kept = subject.vocabulary
    options: Any = {"execution": request.execution(compute), "on_progress": on_progress}
    options["kept"] = None if kept is None else kept.rows
    figures_by_run = {
        run.label: measure_divergences(references, run.folder, run.runtime, **options) for run in subject.runs(request)
    }
    return EvaluationReport(
        subject=subject,
        request=request,
        texts=chosen_texts(subject, request),
        divergence={label: figures[0] for label, figures in figures_by_run.items()},
        elsewhere={
            label: {
                name: ElsewhereFigures(text_set, divergence)
                for (name, text_set), divergence in zip(elsewhere.items(), figures[1:], strict=True)
            }
            for label, figures in figures_by_run.items()
        },
        tasks={},
        zero_shot={},
        threads=request.threads or available_threads(),
        versions=request.versions(),
    )


def measured_divergence(
    subject: Subject, folder: Path, request: EvaluationRequest, compute: Compute | None, progress: Progress
) -> dict[str, DivergenceFigures]:
    """The figures of a variant by run; the dense model in `folder` answers for it alone."""
    execution = request.execution(compute)
    with DenseAnswers(folder, execution) as answers:
        pairs = divergence_texts(subject, request)
        texts = [pair.dense for pair in pairs]
        for run in subject.runs(request):
            if pairs:  # without a text, the reference is refused
                claim_texts(run.runtime, run.folder, [pair.variant for pair in pairs], execution, progress.say)
        with progress.step("running the dense model", len(set(texts)), "texts") as done:
            answers.run(texts, on_progress=done)
        names = request.run_names
        with progress.step(f"running the variant ({', '.join(names)})", len(texts) * len(names), "texts") as done:
            return dict(divergence_report(subject, request, answers, compute=compute, on_progress=done).divergence)
