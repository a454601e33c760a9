"""Lets a model answer the questions of several tasks in its own words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from seap_export.errors import UsageError
from validation.execution import Execution
from validation.generation.figures import Answer, GenerationFigures
from validation.generation.questions import OpenTask
from validation.generation.writer import open_writer
from validation.runtimes.table import REFERENCE

#: The most tokens of an answer, unless asked otherwise.
MAX_NEW_TOKENS = 256


def evaluate_generation(
    folder: Path,
    tasks: Sequence[OpenTask],
    *,
    runtime: str = REFERENCE,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 8,
    execution: Execution = Execution(),  # noqa: B008 - frozen
    tokenizer_folder: Path | None = None,
    on_answer: Callable[[object], object] = lambda done: None,
) -> dict[str, GenerationFigures]:
    """Measures how many questions of each task one model answers rightly, by greedy decoding; torch runs in float32.

    Args:
        folder: A model folder, dense or pruned, or with another `runtime` what was written from one.
        tasks: At least one task, all with different names (`validation.generation.open_task`).
        runtime: Name of the runtime that runs the folder.
        max_new_tokens: The most tokens of an answer.
        batch_size: Prompts that run together; affects speed and memory, and answers only where two tokens are as
            likely as each other to the last bits.
        execution: Provider, threads and memory of the run.
        tokenizer_folder: Folder of the tokenizer, and where a runtime is given the model folder; None: `folder`.
        on_answer: Called once for each question that is answered.

    Returns:
        Results by task name.

    Raises:
        UsageError: An argument is out of range.
        InputError: A question has no tokens, or too many for the model.
        ArtifactError: The folder or its tokenizer cannot be loaded, or its logits are NaN or infinite.
        EnvironmentFailure: The runtime, its provider or memory is not available.
        ParityFailure: The model does not run.
    """
    if min(max_new_tokens, batch_size) < 1:
        raise UsageError("max new tokens and batch size must be at least 1")
    if not tasks or len({task.name for task in tasks}) != len(tasks):
        raise UsageError("give at least one task; names must be different")
    prompts = [prompt for task in tasks for prompt in task.prompts]
    figures = {}
    with open_writer(folder, prompts, max_new_tokens, batch_size, execution, runtime, tokenizer_folder) as writer:
        for task in tasks:
            texts = writer.answers(task.prompts, task.rule, on_answer)
            answers = (
                Answer(
                    question.prompt, made.text, made.tokens, made.is_stopped, task.rule.find(made.text), question.gold
                )
                for made, question in zip(texts, task.questions, strict=True)
            )
            figures[task.name] = GenerationFigures(tuple(answers), task.sha256)
    return figures
