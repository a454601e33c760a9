"""Measures a model's accuracy on several tasks with the lm-evaluation-harness."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from seap_export.common.hashing import sha256_json
from seap_export.corpus.harness import quiet_harness, require_harness
from seap_export.errors import UsageError
from validation.execution import Execution, Say
from validation.quiet import quiet_transformers
from validation.runtimes.table import REFERENCE
from validation.zero_shot.figures import ZeroShotFigures
from validation.zero_shot.models import open_model
from validation.zero_shot.tasks import HarnessTask

_PERCENT = 10  # between two progress lines


def evaluate_zero_shot(
    folder: Path,
    tasks: Sequence[HarnessTask],
    *,
    limit: int | None = None,
    runtime: str = REFERENCE,
    batch_size: int = 8,
    execution: Execution = Execution(),  # noqa: B008 - frozen
    tokenizer_folder: Path | None = None,
    on_progress: Say | None = None,
) -> dict[str, ZeroShotFigures]:
    """Measures the accuracy of one model on each task, without few-shot examples; torch runs in float32.

    Args:
        folder: A model folder, dense or pruned, or with another `runtime` what was written from one.
        tasks: At least one task, all with different names (`validation.zero_shot.local_task`, `hub_tasks`); they can
            be reused for the next folder.
        limit: Ask only the first `limit` questions of each task; None: all.
        runtime: Name of the runtime that runs the folder.
        batch_size: Sequences per batch; affects only speed and memory.
        execution: Provider, threads and memory of the run.
        tokenizer_folder: Folder of the tokenizer, and where a runtime is given the model folder; None: `folder`.
        on_progress: Called with a progress line from time to time.

    Returns:
        Results by task name.

    Raises:
        UsageError: An argument is out of range.
        InputError: A choice has no tokens of its own, or more tokens than the model has positions.
        ArtifactError: The folder or its tokenizer cannot be loaded.
        EnvironmentFailure: The harness is not installed, or the provider or memory is not available.
        ParityFailure: The ONNX graph does not run.
    """
    if (limit is not None and limit < 1) or batch_size < 1:
        raise UsageError("limit and batch size must be at least 1")
    if not tasks or len({task.name for task in tasks}) != len(tasks):
        raise UsageError("give at least one task; names must be different")
    require_harness()
    on_sequences = _meter(on_progress)  # keeps stderr before it is redirected
    with (
        quiet_transformers(),
        quiet_harness(),
        open_model(
            folder,
            runtime,
            tokenizer_folder=tokenizer_folder or folder,
            batch_size=batch_size,
            execution=execution,
            on_sequences=on_sequences,
        ) as model,
    ):
        results, samples = _ask(model, tasks, limit)
        del model
    gc.collect()  # the harness's model class may reference itself; the next model needs the memory
    return {task.name: _figures(task.task, results[task.name], samples[task.name]) for task in tasks}


def _ask(
    model: Any, tasks: Sequence[HarnessTask], limit: int | None
) -> tuple[dict[str, dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """The harness's results of each task, and of each of its questions."""
    import lm_eval

    by_name = {task.name: task.task for task in tasks}
    answers: Any = lm_eval.evaluate(
        lm=model, task_dict={"tasks": by_name, "groups": {}, "group_map": {}}, limit=limit, log_samples=True
    )
    return answers["results"], answers["samples"]


def _meter(on_progress: Say | None) -> Callable[[int, int], None]:
    """Turns counts of sequences into a progress line every few per cent, on a stderr the harness does not write to."""
    stderr, done = sys.stderr, 0

    def count(sequences: int, total: int) -> None:
        nonlocal done
        before, done = done, done + sequences
        percent = 100 * done // total
        if on_progress and percent // _PERCENT > 100 * before // total // _PERCENT:
            with contextlib.redirect_stderr(stderr):
                on_progress(f"{percent} % of {total} sequences")

    return count


def _figures(task: Any, results: dict[str, Any], samples: Sequence[dict[str, Any]]) -> ZeroShotFigures:
    by_question: dict[int, list[Any]] = defaultdict(list)
    for instance in task.instances:
        by_question[instance.doc_id].append(instance)
    chances = [1.0 / len(task.doc_to_choice(instances[0].doc)) for instances in by_question.values()]
    return ZeroShotFigures(
        acc=float(results["acc,none"]),
        acc_norm=_number(results.get("acc_norm,none")),
        acc_stderr=_number(results.get("acc_stderr,none")),
        acc_norm_stderr=_number(results.get("acc_norm_stderr,none")),
        questions=len(by_question),
        chance=sum(chances) / len(chances),
        sha256=sha256_json([[list(instance.args) for instance in instances] for instances in by_question.values()]),
        right=tuple(
            sample["acc"] > 0 for sample in sorted(samples, key=itemgetter("doc_id")) if sample["filter"] == "none"
        ),
    )


def _number(value: Any) -> float | None:
    """Converts a number; the harness writes "N/A" for the standard error of a single question."""
    return float(value) if isinstance(value, int | float) else None
