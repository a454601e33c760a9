"""Lets a variant and its dense model answer questions in their own words."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from seap_export.model.layers.compute import Compute
from seap_export.pipeline.evaluation.request import EvaluationRequest
from seap_export.pipeline.evaluation.subject import Subject, VariantRun
from seap_export.pipeline.evaluation.texts import dense_tokenizer
from seap_export.pipeline.progress import Progress
from validation.generation import GenerationFigures, OpenTask, evaluate_generation
from validation.runtimes.table import REFERENCE


def generated_answers(
    subject: Subject,
    dense: Path | None,
    runs: Sequence[VariantRun],
    tasks: Sequence[OpenTask],
    request: EvaluationRequest,
    compute: Compute | None,
    progress: Progress,
) -> dict[str, dict[str, GenerationFigures]]:
    """Results by run or "dense", then by task. All models are given the same tokens, unless the variant lacks some."""
    models: dict[str, VariantRun] = {} if dense is None else {"dense": VariantRun(REFERENCE, dense)}
    models |= {run.label: run for run in runs}
    options: Any = {
        "max_new_tokens": request.max_new_tokens,
        "batch_size": request.batch_size,
        "execution": request.execution(compute),
    }
    variant_tokenizer = None if subject.variant is None else subject.artifact(request.tokenizer_folder)
    names, number = ", ".join(task.name for task in tasks), sum(len(task.questions) for task in tasks)
    figures = {}
    for label, run in models.items():
        with (
            progress.step(f"{label}: answering {names}", number, "questions") as done,
            dense_tokenizer(subject, request) if label == "dense" else nullcontext(variant_tokenizer) as tokenizer,
        ):
            figures[label] = evaluate_generation(
                run.folder, tasks, runtime=run.runtime, tokenizer_folder=tokenizer, on_answer=done, **options
            )
    return figures
