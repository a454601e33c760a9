"""`evaluate`: how much of the dense model's quality a variant keeps."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seap_export.api.arguments import FilePath, NameOrPath, Provider, Several, checked
from seap_export.api.progress import ProgressArgument
from seap_export.api.tasks import Tasks
from seap_export.errors import UsageError

if TYPE_CHECKING:
    from seap_export.model.layers.compute import Compute
    from seap_export.pipeline.evaluation.report import EvaluationReport
    from seap_export.pipeline.evaluation.request import EvaluationRequest
    from seap_export.pipeline.progress import Progress


def evaluate(
    path: NameOrPath,
    *,
    dense: NameOrPath | None = None,
    runtime: Several[str] = "torch",
    text: Tasks = (),
    zero_shot: Tasks = (),
    harness_task: Several[str] = (),
    generate: Tasks = (),
    max_new_tokens: int = 256,
    limit: int | None = None,
    max_length: int = 256,
    max_kl: float | None = None,
    min_accuracy_retained: float | None = None,
    out: FilePath | None = None,
    answers: FilePath | None = None,
    dry_run: bool = False,
    batch_size: int = 8,
    device: str = "auto",
    memory: str | None = None,
    provider: Provider = "cpu",
    threads: int | None = None,
    force: bool = False,
    progress: ProgressArgument = False,
) -> EvaluationReport:
    """Measures how much of the dense model's quality a variant keeps.

    The divergence on held-out texts needs `dense`. Zero-shot accuracy needs task files or names of harness tasks, and
    the extra `evaluate`; exact match of generated answers needs task files that say how the answer is found. Texts
    that the variant was calibrated on are refused. If a limit is exceeded, nothing is raised: `passed` of the report
    is False, and `reasons` say why.

    Example:
        >>> from seap_export import evaluate
        >>> report = evaluate("pruned/maths-0.2", dense="MODEL", runtime=["torch", "onnxruntime"], max_kl=0.2)
        >>> for folder, figures in report.divergence.items():
        ...     print(folder, figures.kl.mean, figures.kl.stderr, figures.perplexity, figures.dense_perplexity)
        >>> report.passed, report.reasons

    Args:
        path: A variant's folder; with `zero_shot`, `harness_task` or `generate` also a dense model.
        dense: The dense model of the variant: a folder, a .gguf file or a hub id.
        runtime: What runs the variant: "torch" its folder hf, "onnxruntime" its folder onnx, or another; one or
            several.
        text: Texts for the divergence, as `export` accepts tasks; none: the held-out texts of the export.
        zero_shot: Task files (.toml) with choices, by name, for zero-shot accuracy.
        harness_task: Tasks of the lm-evaluation-harness, such as "piqa", whose data are fetched from the hub.
        generate: Task files (.toml) with 'answer', by name, for exact match of generated answers.
        max_new_tokens: The most tokens of a generated answer.
        limit: Use only so many texts and questions of each task; None: all.
        max_length: Tokens after which a text is cut.
        max_kl: Largest mean KL divergence from the dense model, in nats per token. The mean decides; a reason
            or a warning says if it is too close to tell.
        min_accuracy_retained: Smallest accuracy or exact match of any task, as a fraction of the dense model's.
        out: Write the report to this file as JSON.
        answers: Write all generated answers to this file, as JSON lines.
        dry_run: Check the inputs, and measure and write nothing; `planned` of the report says what would be measured.
        batch_size: Questions, or their choices, in a batch; fewer need less memory.
        device: Where torch computes: "auto", "cpu", "cuda" or "cuda:N".
        memory: Memory that it may take, such as "8GiB"; None: most of what is free.
        provider: Execution provider of ONNX Runtime: "cpu" or "cuda".
        threads: Number of threads; None: all cores.
        force: Replace files.
        progress: Print on stderr what happens, as the command does. Otherwise warnings are those of `warnings`.

    Returns:
        The figures: `divergence` by folder, `zero_shot` and `generation` by folder and task, and with `mean` and
        `stderr` `kl_difference` by folder, `accuracy_retained` and `accuracy_difference` by folder and task;
        `verdicts` on limits.

    Raises:
        TypeError: An argument has the wrong type.
        UsageError: Arguments contradict each other or do not fit the variant.
        InputError: A model or a corpus cannot be used, or a text was used in calibration.
        ArtifactError: The variant is damaged or incomplete.
        EnvironmentFailure: A library, the hub, the provider, memory or disk space is missing.
        ParityFailure: The ONNX graph does not run.
    """
    job = _open(checked(evaluate, locals()))

    from seap_export.pipeline.evaluation.evaluate import evaluate as measure
    from seap_export.pipeline.evaluation.evaluate import preview, write_answers, write_evaluation
    from seap_export.pipeline.folder.outputs import write_report

    if dry_run:
        return preview(job.path, job.dense, job.request, job.progress)
    with (
        write_report(job.out, force=force) if job.out else nullcontext() as target,
        write_report(job.answers, force=force) if job.answers else nullcontext() as lines,
    ):
        report = measure(job.path, job.dense, job.request, job.progress, job.compute)
        if target:
            write_evaluation(report, target)
        if lines:
            write_answers(report, lines)
    for note in report.notes:
        job.progress.warn(note)
    return report


@dataclass(frozen=True)
class _Job:
    path: str
    dense: str | None
    request: EvaluationRequest
    compute: Compute
    out: Path | None
    answers: Path | None
    progress: Progress


def _open(options: dict[str, Any]) -> _Job:
    from seap_export.api.settings import compute_of
    from seap_export.pipeline.evaluation.request import EvaluationRequest

    del options["force"], options["dry_run"]
    compute = compute_of(options)
    path, dense, out, answers, progress = (
        options.pop(name) for name in ("path", "dense", "out", "answers", "progress")
    )
    request = EvaluationRequest(
        runtimes=tuple(dict.fromkeys(options.pop("runtime"))),
        texts=options.pop("text"),
        harness_tasks=options.pop("harness_task"),
        **options,
    )
    if answers is not None and not request.generate:
        raise UsageError("--answers writes what is generated; add --generate")
    if answers is not None and answers == out:
        raise UsageError(f"--answers and --out are both {out}; give two files")
    return _Job(path, dense, request, compute, out, answers, progress)
