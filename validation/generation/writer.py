"""A model that answers prompts, by greedy decoding."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from seap_export.corpus import AnswerRule
from seap_export.errors import ArtifactError, InputError
from seap_export.runtime.chat import read_chat_template
from seap_export.runtime.files import encode_all, load_tokenizer
from validation.execution import Execution
from validation.generation.greedy import Continuation, Ends, continue_prompts
from validation.generation.limits import TextLimits, text_limits
from validation.quiet import quiet_transformers
from validation.runtimes.pytorch.torch_batch import TorchBatch
from validation.runtimes.pytorch.torch_runner import open_torch_runner
from validation.runtimes.runner import Bounded, Runner
from validation.runtimes.table import REFERENCE, open_runtime
from validation.session_memory import Calls


@dataclass(frozen=True)
class Writer:
    """An open model that answers prompts.

    Attributes:
        limits: The tokens that end its texts, and how long they may get.
        max_new_tokens: The most tokens of an answer.
        batch_size: Prompts that run together.
    """

    folder: Path
    tokenizer: Tokenizer
    runner: Runner
    limits: TextLimits
    max_new_tokens: int
    batch_size: int

    def answers(
        self,
        prompts: Sequence[str],
        rule: AnswerRule,
        on_answer: Callable[[object], object] = lambda done: None,
    ) -> list[Continuation]:
        """Generates an answer to each prompt.

        Args:
            prompts: Prompts, none of them longer than those that the model was opened for.
            rule: Its stops are the strings before which an answer ends.
            on_answer: Called once for each prompt that is answered.

        Raises:
            ArtifactError: The logits are NaN or infinite.
            ParityFailure, EnvironmentFailure: The model does not run.
        """
        stops = {token for stop in rule.stop if (token := self.tokenizer.token_to_id(stop)) is not None}
        ends = Ends(self.limits.ends | stops, rule, self.max_new_tokens, self.limits.context, self.limits.shared)
        token_ids = _tokens(prompts, self.tokenizer, self.limits)
        try:
            return continue_prompts(self.runner, self.tokenizer, token_ids, ends, self.batch_size, on_answer)
        except ArtifactError as error:
            raise ArtifactError(f"{self.folder}: {error}") from error


@contextmanager
def open_writer(
    folder: Path,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    execution: Execution = Execution(),  # noqa: B008 - frozen
    runtime: str = REFERENCE,
    tokenizer_folder: Path | None = None,
) -> Iterator[Writer]:
    """Opens a model that is to answer these prompts; torch runs in float32.

    Args:
        folder: A model folder, dense or pruned, or with another `runtime` what was written from one.
        max_new_tokens: The most tokens of an answer.
        batch_size: Prompts that run together; affects speed and memory, and answers only where two tokens are as
            likely as each other to the last bits.
        execution: Provider, threads and memory of the run.
        runtime: Name of the runtime that runs the folder.
        tokenizer_folder: Folder of the tokenizer, and where a runtime is given the model folder; None: `folder`.

    Raises:
        InputError: A prompt has no tokens, or too many for the model.
        ArtifactError: The folder or its tokenizer cannot be loaded.
        EnvironmentFailure: The runtime, its provider or memory is not available.
    """
    texts = tokenizer_folder or folder
    tokenizer, limits = load_tokenizer(texts), text_limits(texts)
    longest = max(map(len, _tokens(prompts, tokenizer, limits)))
    calls = Calls(batch_size, longest, min(longest + max_new_tokens, limits.context))
    # genai_config.json does not say it
    shared = text_limits(folder).shared if runtime == REFERENCE else limits.shared
    template = read_chat_template(texts, tokenizer)
    ends = limits.ends if template is None else limits.ends | template.turn_ends(tokenizer)
    with quiet_transformers(), _opened(folder, runtime, execution, calls) as runner:
        context = runner.context_length if isinstance(runner, Bounded) else limits.context
        limits = TextLimits(ends, context, shared)
        yield Writer(folder, tokenizer, runner, limits, max_new_tokens, batch_size)
    gc.collect()  # the next model needs the memory


def _tokens(prompts: Sequence[str], tokenizer: Tokenizer, limits: TextLimits) -> list[list[int]]:
    token_ids = encode_all(tokenizer, prompts)
    for prompt, ids in zip(prompts, token_ids, strict=True):
        if not 1 <= len(ids) < limits.context:
            raise InputError(
                f"the prompt {prompt!r:.60} has {len(ids)} tokens, but the model's context is {limits.context}; use "
                "fewer examples, or remove it"
            )
    return token_ids


@contextmanager
def _opened(folder: Path, runtime: str, execution: Execution, calls: Calls) -> Iterator[Runner]:
    if runtime == REFERENCE:
        with open_torch_runner(folder, execution) as model, model.head(), closing(TorchBatch(model)) as batch:
            yield batch
        return
    with closing(open_runtime(runtime, folder, execution, "asked", [calls])) as runner:
        yield runner
