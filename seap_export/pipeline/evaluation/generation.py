"""Lets a variant and its dense model answer questions in their own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from seap_export.layers.compute import Compute
from seap_export.pipeline.evaluation.request import EvaluationRequest
from seap_export.pipeline.evaluation.subject import Subject
from seap_export.pipeline.evaluation.texts import own_tokenizer
from seap_export.pipeline.progress import Progress
from validation.generation import GenerationFigures, OpenTask, evaluate_generation

__all__ = ["generated_answers"]


def generated_answers(
    subject: Subject,
    dense: Path | None,
    written: Mapping[str, Path],
    tasks: Sequence[OpenTask],
    request: EvaluationRequest,
    compute: Compute | None,
    progress: Progress,
) -> dict[str, dict[str, GenerationFigures]]:
    """Results by form or "dense", then by task. All models are given the same tokens, unless the variant lacks some.

    Args:
        subject: What is evaluated.
        dense: The folder of the dense model; None: it is not run.
        written: Folders of the variant that are run besides the forms, by runtime.
        tasks: The questions.
        request: How to run.
        compute: Where torch runs, and in how much memory.
        progress: Shows how far each model has come.

    Raises:
        InputError: A question has no tokens, or too many for the model.
        ArtifactError: A folder cannot be loaded, or its logits are NaN or infinite.
        EnvironmentFailure: A runtime, its provider or memory is not available.
        ParityFailure: A model does not run.
    """
    has_variant = subject.variant is not None
    folders: dict[str, tuple[Path, str]] = {} if dense is None else {"dense": (dense, "hf")}
    folders |= {form: (subject.artifact(form), form) for form in request.forms if has_variant}
    folders |= {f"{folder.name} in {runtime}": (folder, runtime) for runtime, folder in written.items()}
    options: Any = {
        "max_new_tokens": request.max_new_tokens,
        "batch_size": request.batch_size,
        "threads": request.threads,
        "provider": request.provider,
        "compute": compute,
    }
    own = subject.artifact(request.tokenizer_form) if has_variant else None
    names, number = ", ".join(task.name for task in tasks), sum(len(task.questions) for task in tasks)
    figures = {}
    for way, (folder, form) in folders.items():
        with (
            progress.step(f"{way}: answering {names}", number, "questions") as done,
            own_tokenizer(subject, request) if way == "dense" else nullcontext(own) as tokenizer,
        ):
            figures[way] = evaluate_generation(
                folder, tasks, form=form, tokenizer_folder=tokenizer, on_answer=done, **options
            )
    return figures
