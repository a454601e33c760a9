"""Measures the quality of a variant compared with its dense model, or the accuracy of a dense model alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from seap_export.common.json_file import write_json
from seap_export.corpus.harness import require_harness
from seap_export.model.layers.compute import Compute
from seap_export.pipeline.evaluation.divergence import measured_divergence
from seap_export.pipeline.evaluation.generation import generated_answers
from seap_export.pipeline.evaluation.material import chosen_texts, local_questions, open_tasks
from seap_export.pipeline.evaluation.report import EvaluationReport, TaskOrigin
from seap_export.pipeline.evaluation.request import RUN_FOLDERS, EvaluationRequest
from seap_export.pipeline.evaluation.subject import Subject, VariantRun, open_subject
from seap_export.pipeline.evaluation.texts import dense_tokenizer
from seap_export.pipeline.folder.dense_folder import dense_folder
from seap_export.pipeline.progress import Progress, Silent
from seap_export.runtime.session import available_threads, probe
from validation.divergence.measure import DivergenceFigures
from validation.generation import GenerationFigures
from validation.zero_shot import HarnessTask, ZeroShotFigures, evaluate_zero_shot, hub_tasks, local_task


def evaluate(
    path: str,
    dense: str | None,
    request: EvaluationRequest,
    progress: Progress | None = None,
    compute: Compute | None = None,
) -> EvaluationReport:
    """Measures what is requested, with one model in memory at a time.

    Args:
        path: A variant's folder, or a dense model.
        dense: The dense model of the variant; None: measure only the answers of the variant.
        request: The measurements, their texts and tasks, and where they run.
        progress: Receives progress messages.
        compute: Where torch runs, and in how much memory; None: on the CPU, in what is free now.

    Returns:
        The report; a failed quality gate is a verdict in it, not an exception.

    Raises:
        UsageError: The request does not match the subject.
        InputError: A model or corpus cannot be used, or a text or question was used in calibration.
        ArtifactError: The variant is damaged or incomplete.
        EnvironmentFailure: The lm-evaluation-harness, the hub, the provider, memory or disk space is not available.
        ParityFailure: The ONNX graph does not run.
    """
    progress = progress or Silent()
    probe(request.provider)
    if request.needs_harness:
        require_harness()
    subject = open_subject(path, dense, request, progress)
    runs = subject.runs(request)  # refuses what is not there
    texts = chosen_texts(subject, request)
    tasks, origins = _tasks(subject, request)
    generated = open_tasks(subject, request)
    origins |= {
        name: TaskOrigin("file", None, disjoint, len(task.examples)) for name, (task, disjoint) in generated.items()
    }
    divergence: dict[str, DivergenceFigures] = {}
    zero_shot: dict[str, dict[str, ZeroShotFigures]] = {}
    generation: dict[str, dict[str, GenerationFigures]] = {}
    with ExitStack() as stack:
        folder = None
        if subject.dense is not None:
            progress.say(f"opening {subject.dense.name}")
            folder = stack.enter_context(dense_folder(subject.dense))
        if texts is not None and folder is not None:
            divergence = measured_divergence(subject, folder, request, compute, progress)
        if tasks:
            zero_shot = _zero_shot(subject, folder, runs, tasks, request, compute, progress)
        if generated:
            open_ended = [task for task, _ in generated.values()]
            generation = generated_answers(subject, folder, runs, open_ended, request, compute, progress)
    return EvaluationReport(
        subject=subject,
        request=request,
        texts=texts,
        divergence=divergence,
        tasks=origins,
        zero_shot=zero_shot,
        generation=generation,
        threads=request.threads or available_threads(),
        versions=request.versions(),
    )


def preview(
    path: str, dense: str | None, request: EvaluationRequest, progress: Progress | None = None
) -> EvaluationReport:
    """Lists what `evaluate` would measure, after all checks that need neither a model in memory nor a download.

    Returns:
        A report without results, in which these are `planned`.

    Raises:
        UsageError: The request does not match the subject.
        InputError: A model or corpus cannot be used, or a text or question was used in calibration.
        ArtifactError: The variant is damaged or incomplete.
        EnvironmentFailure: The lm-evaluation-harness, the hub or the provider is not available.
    """
    probe(request.provider)
    if request.needs_harness:
        require_harness()
    subject = open_subject(path, dense, request, progress or Silent())
    subject.runs(request)
    run_names = [] if subject.variant is None else request.run_names
    models = [*([] if subject.dense is None else ["dense"]), *run_names]
    texts = chosen_texts(subject, request)
    rows: list[tuple[str, str, int | None, bool | None]] = []
    if texts is not None:
        rows.append(("divergence", ", ".join(texts.tasks), len(texts.texts), texts.disjoint))
    for name, (questions, disjoint) in local_questions(subject, request).items():
        rows.append(("zero-shot", name, len(questions), disjoint))
    rows += [("zero-shot", name, None, None) for name in request.harness_tasks]
    for name, (task, disjoint) in open_tasks(subject, request).items():
        rows.append(("generation", name, len(task.questions), disjoint))
    keys = ("measurement", "name", "items", "disjoint")
    return EvaluationReport(
        subject=subject,
        request=request,
        texts=None,
        divergence={},
        tasks={},
        zero_shot={},
        threads=request.threads or available_threads(),
        versions={},
        planned=[{**dict(zip(keys, row, strict=True)), "models": models} for row in rows],
    )


def write_evaluation(report: EvaluationReport, path: Path) -> None:
    write_json(path, report.to_json())


def write_answers(report: EvaluationReport, path: Path) -> None:
    """Writes all generated answers to a file as JSON lines."""
    lines = (json.dumps(answer, ensure_ascii=False) + "\n" for answer in report.answers())
    path.write_text("".join(lines), "utf-8", newline="\n")


def _tasks(subject: Subject, request: EvaluationRequest) -> tuple[list[HarnessTask], dict[str, TaskOrigin]]:
    """The tasks with choices, ready for the lm-evaluation-harness, and the origin of each by name."""
    local = local_questions(subject, request)
    tasks = [local_task(name, questions) for name, (questions, _) in local.items()]
    tasks += hub_tasks(request.harness_tasks) if request.harness_tasks else []
    disjoint = {name: checked for name, (_, checked) in local.items()}
    return tasks, {task.name: TaskOrigin(task.origin, task.split, disjoint.get(task.name)) for task in tasks}


def _zero_shot(
    subject: Subject,
    folder: Path | None,
    runs: Sequence[VariantRun],
    tasks: list[HarnessTask],
    request: EvaluationRequest,
    compute: Compute | None,
    progress: Progress,
) -> dict[str, dict[str, ZeroShotFigures]]:
    options: Any = {"limit": request.limit, "batch_size": request.batch_size, "on_progress": progress.say}
    options["execution"] = request.execution(compute)
    figures = {}
    names = ", ".join(task.name for task in tasks)
    if folder is not None:
        progress.say(f"dense: {names}")
        with dense_tokenizer(subject, request) as tokenizer:
            figures["dense"] = evaluate_zero_shot(folder, tasks, tokenizer_folder=tokenizer, **options)
    for run in runs:
        progress.say(f"{run.label}: {names}")
        has_tokenizer = run.runtime in RUN_FOLDERS
        tokenizer = run.folder if has_tokenizer else subject.artifact("hf")
        figures[run.label] = evaluate_zero_shot(
            run.folder, tasks, runtime=run.runtime, tokenizer_folder=tokenizer, **options
        )
    return figures
