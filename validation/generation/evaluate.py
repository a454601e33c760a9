"""Lets a model answer the questions of several tasks in its own words."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.families import model_spec
from seap_export.json_file import read_artifact
from seap_export.runtime.chat import read_chat_template
from seap_export.runtime.files import load_tokenizer, model_limits
from seap_export.sources.config import end_tokens
from validation.execution import Execution
from validation.generation.figures import Answer, GenerationFigures
from validation.generation.greedy import Ends, continue_prompts
from validation.generation.questions import OpenTask
from validation.quiet import quiet_transformers
from validation.runtimes.pytorch.torch_batch import TorchBatch
from validation.runtimes.pytorch.torch_runner import open_torch_runner
from validation.runtimes.runner import Runner
from validation.runtimes.table import REFERENCE, open_runtime
from validation.session_memory import Calls

__all__ = ["MAX_NEW_TOKENS", "evaluate_generation"]

#: The most tokens of an answer, unless asked otherwise.
MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class _TextLimits:
    """Where texts of a model end.

    Attributes:
        ends: Tokens that end a text; none if the model has none.
        context: The most tokens of a text.
        shared: The most tokens of a row of a batch. Some models rotate longer rows otherwise, and transformers then
            all rows of a batch.
    """

    ends: frozenset[int]
    context: int
    shared: int


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
        runtime: What runs the folder.
        max_new_tokens: The most tokens of an answer.
        batch_size: Prompts that run together; affects speed and memory, and answers only where two tokens are as
            likely as each other to the last bits.
        execution: Where it runs.
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
    texts = tokenizer_folder or folder
    tokenizer, limits = load_tokenizer(texts), _text_limits(texts)
    template = read_chat_template(texts, tokenizer)
    text_ends = limits.ends if template is None else limits.ends | template.turn_ends(tokenizer)
    prompts = {task.name: _tokens(task, tokenizer, limits) for task in tasks}
    longest = max(len(ids) for task_prompts in prompts.values() for ids in task_prompts)
    calls = Calls(batch_size, longest, min(longest + max_new_tokens, limits.context))
    # genai_config.json does not say it
    shared = _text_limits(folder).shared if runtime == REFERENCE else limits.shared
    figures = {}
    with quiet_transformers(), _opened(folder, runtime, execution, calls) as runner:
        for task in tasks:
            stops = {token for stop in task.rule.stop if (token := tokenizer.token_to_id(stop)) is not None}
            ends = Ends(text_ends | stops, task.rule, max_new_tokens, limits.context, shared)
            try:
                texts_made = continue_prompts(runner, tokenizer, prompts[task.name], ends, batch_size, on_answer)
            except ArtifactError as error:
                raise ArtifactError(f"{folder}: {error}") from error
            answers = (
                Answer(
                    question.prompt, made.text, made.tokens, made.is_stopped, task.rule.find(made.text), question.gold
                )
                for made, question in zip(texts_made, task.questions, strict=True)
            )
            figures[task.name] = GenerationFigures(tuple(answers), task.sha256)
    gc.collect()  # the next model needs the memory
    return figures


def _text_limits(folder: Path) -> _TextLimits:
    """The limits of a model folder or of an ONNX folder.

    Raises:
        ArtifactError: Its config is missing or damaged.
        InputError: Its config describes a model that is not supported.
    """
    config = folder / "genai_config.json"
    if config.is_file():
        ends, context = model_limits(config)
        return _TextLimits(ends, context, context)
    spec = model_spec(read_artifact(folder / "config.json"))
    switches = [layer.rope.switches_at for layer in spec.layers if layer.rope and layer.rope.switches_at]
    return _TextLimits(
        end_tokens(folder), spec.max_position_embeddings, min([spec.max_position_embeddings, *switches])
    )


def _tokens(task: OpenTask, tokenizer: Tokenizer, limits: _TextLimits) -> list[list[int]]:
    prompts = [list(encoding.ids) for encoding in tokenizer.encode_batch(list(task.prompts))]
    for number, ids in enumerate(prompts, start=1):
        if not 1 <= len(ids) < limits.context:
            raise InputError(
                f"task '{task.name}': question {number} has {len(ids)} tokens, but the model's context is "
                f"{limits.context}; use fewer examples, or remove the question"
            )
    return prompts


@contextmanager
def _opened(folder: Path, runtime: str, execution: Execution, calls: Calls) -> Iterator[Runner]:
    if runtime == REFERENCE:
        with (
            open_torch_runner(folder, execution) as model,
            model.head(),
            closing(TorchBatch(model)) as batch,
        ):
            yield batch
        return
    with closing(open_runtime(runtime, folder, execution, calls=[calls])) as runner:
        yield runner
