"""Measures the quality of a variant compared with its dense model, or the accuracy of a dense model alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from seap_export.corpus.harness import require_harness
from seap_export.extras import installed_versions
from seap_export.json_file import write_json
from seap_export.layers.compute import Compute
from seap_export.pipeline.evaluation.generation import generated_answers
from seap_export.pipeline.evaluation.report import EvaluationReport, TaskOrigin
from seap_export.pipeline.evaluation.request import RUN_FOLDERS, EvaluationRequest
from seap_export.pipeline.evaluation.subject import (
    Subject,
    VariantRun,
    chosen_texts,
    local_questions,
    open_subject,
    open_tasks,
)
from seap_export.pipeline.evaluation.texts import dense_tokenizer, paired_texts
from seap_export.pipeline.folder.dense_folder import dense_folder
from seap_export.pipeline.progress import Progress, Silent
from seap_export.pipeline.texts.general_text import ElsewhereFigures, TextSet
from seap_export.runtime.session import available_threads, probe
from validation.divergence.dense import DenseAnswers
from validation.divergence.measure import DivergenceFigures, claim_texts, measure_divergences
from validation.divergence.paired import PairedText
from validation.generation import GenerationFigures
from validation.runtimes.table import REFERENCE, runtime_row
from validation.zero_shot import HarnessTask, ZeroShotFigures, evaluate_zero_shot, hub_tasks, local_task

__all__ = [
    "divergence_report",
    "divergence_texts",
    "evaluate",
    "preview",
    "text_sets",
    "write_answers",
    "write_evaluation",
]


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
        request: What to measure.
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
    runs = subject.runs(request.runtimes)  # refuses what is not there
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
            divergence = _divergence(subject, folder, request, compute, progress)
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
        versions=_versions(request),
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
    subject.runs(request.runtimes)
    run_names = [] if subject.variant is None else _run_names(request)
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


def _run_names(request: EvaluationRequest) -> list[str]:
    """What progress and dry runs call the runs of a variant."""
    return [RUN_FOLDERS.get(name, name) for name in request.runtimes]


def write_evaluation(report: EvaluationReport, path: Path) -> None:
    """Writes the report as JSON."""
    write_json(path, report.to_json())


def write_answers(report: EvaluationReport, path: Path) -> None:
    """Writes all generated answers as JSON lines."""
    lines = (json.dumps(answer, ensure_ascii=False) + "\n" for answer in report.answers())
    path.write_text("".join(lines), "utf-8", newline="\n")


def _tasks(subject: Subject, request: EvaluationRequest) -> tuple[list[HarnessTask], dict[str, TaskOrigin]]:
    """The tasks, ready to run, and their origins."""
    local = local_questions(subject, request)
    tasks = [local_task(name, questions) for name, (questions, _) in local.items()]
    tasks += hub_tasks(request.harness_tasks) if request.harness_tasks else []
    disjoint = {name: checked for name, (_, checked) in local.items()}
    return tasks, {task.name: TaskOrigin(task.origin, task.split, disjoint.get(task.name)) for task in tasks}


def divergence_texts(subject: Subject, request: EvaluationRequest) -> tuple[PairedText, ...]:
    """The texts that a variant and its dense model are compared on, as the tokens of both.

    Raises:
        ArtifactError: The variant's held-out texts are not beside it, or its tokenizer cannot be loaded.
        InputError: A corpus cannot be read, or a text was calibrated on.
    """
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
    """Further sets of texts, tokenized as those of `divergence_texts`; one without a token to predict is left out.

    Raises:
        ArtifactError: The variant's tokenizer cannot be loaded.
        InputError: A text has no tokens.
    """
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
    """The divergence of a variant alone, from answers of the dense model that may serve other variants too.

    Args:
        subject: The variant and its dense model.
        request: What to measure; it asks no questions.
        answers: Those of the dense model, which have seen `divergence_texts` and the further sets.
        elsewhere: Further sets of texts.
        compute: Where torch runs the variant, if it does.
        on_progress: Called with a line about each text when it is done.
    """
    sets = [divergence_texts(subject, request), *(text_set.pairs for text_set in elsewhere.values())]
    references = [(answers.reference([pair.dense for pair in pairs]), pairs) for pairs in sets]
    kept = subject.vocabulary
    options: Any = {"execution": request.execution(compute), "on_progress": on_progress}
    options["kept"] = None if kept is None else kept.rows
    figures_by_run = {
        run.label: measure_divergences(references, run.folder, run.runtime, **options)
        for run in subject.runs(request.runtimes)
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
        versions=_versions(request),
    )


def _divergence(
    subject: Subject, folder: Path, request: EvaluationRequest, compute: Compute | None, progress: Progress
) -> dict[str, DivergenceFigures]:
    execution = request.execution(compute)
    with DenseAnswers(folder, execution) as answers:
        pairs = divergence_texts(subject, request)
        texts = [pair.dense for pair in pairs]
        if "onnxruntime" in request.runtimes and pairs:  # without a text, the reference is refused
            claim_texts(
                subject.run_by("onnxruntime").folder, [pair.variant for pair in pairs], execution, progress.say
            )
        with progress.step("running the dense model", len(set(texts)), "texts") as done:
            answers.run(texts, on_progress=done)
        names = _run_names(request)
        with progress.step(f"running the variant ({', '.join(names)})", len(texts) * len(names), "texts") as done:
            return dict(divergence_report(subject, request, answers, compute=compute, on_progress=done).divergence)


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


def _versions(request: EvaluationRequest) -> dict[str, str]:
    """Versions of the libraries used."""
    import onnxruntime
    import torch
    import transformers

    used = {"torch": torch.__version__, "transformers": transformers.__version__}
    if "onnxruntime" in request.runtimes:
        used["onnxruntime"] = onnxruntime.__version__
    for extra in filter(None, (runtime_row(name).extra for name in request.runtimes if name != REFERENCE)):
        used |= installed_versions(extra)
    if request.asks_questions:
        used["lm_eval"] = metadata.version("lm_eval")
    return used
