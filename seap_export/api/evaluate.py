"""`evaluate`: how much of the dense model's quality a variant keeps."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from seap_export.api.options import RunnerOptions, RunOptions
from seap_export.common.options import option, options, takes, values_of
from seap_export.common.providers import OWN_FORMAT, OWN_RUNTIME
from seap_export.common.values import FilePathOrNone, NameOrPath, NameOrPathOrNone, Several
from seap_export.errors import UsageError
from seap_export.pipeline.request.options import ComputeOptions, EvaluationOptions
from seap_export.pipeline.request.tasks import Tasks

if TYPE_CHECKING:
    from seap_export.pipeline.evaluation.report import EvaluationReport


@options
class EvaluateOptions(RunOptions, ComputeOptions, RunnerOptions, EvaluationOptions):
    """All options of `evaluate`."""

    path: NameOrPath = option(
        "A variant's folder; with `zero_shot`, `harness_task` or `generate` also a dense model.", kw_only=False
    )
    dense: NameOrPathOrNone = option(
        "The dense model of a variant: a folder, a .gguf file or a hub id.", default=None, metavar="MODEL"
    )
    runtime: Several[str] = option(
        f"Runtime that runs the variant: torch (hf/), {OWN_RUNTIME} ({OWN_FORMAT}/), or another that "
        "docs/runtimes.md lists. Repeatable.",
        default=(),
        unset=f"{OWN_RUNTIME}, or torch where there is no {OWN_FORMAT}/",
        python=f'What runs the variant: "torch" its folder hf, "{OWN_RUNTIME}" its folder {OWN_FORMAT}, or another; '
        "one or several. None is "
        f'given: "{OWN_RUNTIME}", or "torch" where there is no folder {OWN_FORMAT}.',
        metavar="NAME",
    )
    text: Tasks = option(
        "A corpus for the divergence. Repeatable.",
        default=(),
        unset="the held-out texts of the export",
        python="Texts for the divergence, as `export` accepts tasks; none: the held-out texts of the export.",
        metavar="[NAME=]FILE",
    )
    zero_shot: Tasks = option(
        "A task file (.toml) with choices, for zero-shot accuracy. Repeatable.",
        default=(),
        python="Task files (.toml) with choices, by name, for zero-shot accuracy.",
        metavar="[NAME=]FILE",
    )
    harness_task: Several[str] = option(
        "A task of the lm-evaluation-harness, such as piqa; its data are fetched from the hub. Repeatable.",
        default=(),
        metavar="NAME",
    )
    generate: Tasks = option(
        "A task file (.toml) with 'answer', for exact match of generated answers. Repeatable.",
        default=(),
        python="Task files (.toml) with 'answer', by name, for exact match of generated answers.",
        metavar="[NAME=]FILE",
    )
    out: FilePathOrNone = option("Write the report to this file; without it nothing is written.", default=None)
    answers: FilePathOrNone = option("Write all generated answers to this file, as JSON lines.", default=None)
    dry_run: bool = option("Check the inputs, show what would be measured, and measure nothing.", default=False)


@takes(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> EvaluationReport:
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
        The fields of `EvaluateOptions`.

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
    from seap_export.api.settings import compute_of
    from seap_export.pipeline.evaluation.evaluate import evaluate as measure
    from seap_export.pipeline.evaluation.evaluate import preview, write_answers, write_evaluation
    from seap_export.pipeline.evaluation.request import EvaluationRequest
    from seap_export.pipeline.evaluation.subject import usual_runtimes
    from seap_export.pipeline.folder.outputs import write_report

    compute, out, answers = compute_of(options), options.out, options.answers
    request = EvaluationRequest(
        runtimes=tuple(dict.fromkeys(options.runtime)) or usual_runtimes(options.path),
        texts=options.text,
        zero_shot=options.zero_shot,
        harness_tasks=options.harness_task,
        generate=options.generate,
        **values_of(EvaluationOptions, options),
        provider=options.provider,
        threads=options.threads,
    )
    if answers is not None and not request.generate:
        raise UsageError("--answers writes what is generated; add --generate")
    if answers is not None and answers == out:
        raise UsageError(f"--answers and --out are both {out}; give two files")
    if options.dry_run:
        return preview(options.path, options.dense, request, options.progress)
    with (
        write_report(out, force=options.force) if out else nullcontext() as target,
        write_report(answers, force=options.force) if answers else nullcontext() as lines,
    ):
        report = measure(options.path, options.dense, request, options.progress, compute)
        if target:
            write_evaluation(report, target)
        if lines:
            write_answers(report, lines)
    for note in report.notes:
        options.progress.warn(note)
    return report
