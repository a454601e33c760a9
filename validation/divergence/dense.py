"""Runs the dense model once over texts and prompts, as the reference for any number of variants.

It runs first, a layer at a time, and is released; its logits are kept in a temporary file.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import InputError
from validation.array_store import ArrayStore, StoredArray
from validation.divergence.paired import TokenIds
from validation.execution import Execution, Say
from validation.likelihood import log_likelihoods
from validation.runtimes.pytorch.torch_runner import Run, TorchRunner, open_torch_runner

Alternatives = tuple[TokenIds, ...]
#: Number of logits held in float64 at once.
_CHUNK_ELEMENTS = 2**20
#: Tokens that make an answer.
_LEAST_ANSWER = 3
_EXECUTION = Execution()


@dataclass(frozen=True)
class DenseReference:
    """The dense model's predictions for some texts; valid while its `DenseAnswers` are open.

    `losses` is the sum of -log P(next token) over each text, in nats.
    """

    token_ids: tuple[TokenIds, ...]
    perplexity: float
    losses: tuple[float, ...]
    _store: ArrayStore
    _stored: tuple[StoredArray, ...]

    def logits(self, index: int) -> NDArray[np.float32]:
        """The dense model's logits after each of a text's T tokens, float32 [T, V]."""
        return self._store.get(self._stored[index])


@dataclass(frozen=True)
class _Answer:
    """The dense model's logits of one text, and the sum of -log P(next token) over it, nats."""

    logits: StoredArray
    loss: float


class DenseAnswers:
    """Computes the dense model's logits of texts and its answers to prompts, each once for any number of variants.

    Logits wait in the temporary folder, 4 bytes each; layers are in memory only while `run` is running.

    Args:
        folder: config.json and safetensors files of the dense model.
        execution: Threads, device and memory of torch.
    """

    def __init__(self, folder: Path, execution: Execution = _EXECUTION) -> None:
        self._folder, self._execution = folder, execution
        self._store = ArrayStore()
        self._texts: dict[TokenIds, _Answer] = {}
        self._answered: dict[Alternatives, tuple[TokenIds, TokenIds]] = {}

    def __enter__(self) -> DenseAnswers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.__exit__(kind, error, trace)

    def run(
        self,
        texts: Sequence[TokenIds] = (),
        prompts: Sequence[Alternatives] = (),
        steps: int = 0,
        stops: Collection[int] = (),
        on_progress: Say | None = None,
    ) -> None:
        """Runs the dense model over the texts that it has not seen yet.

        Args:
            texts: The tokens of each text, for `reference`.
            prompts: For `answer`, the tokens of alternative prompts, of which the first is taken that the model has
                something to say to.
            steps: The most tokens that follow a prompt, greedily.
            stops: Tokens that end an answer.
            on_progress: Called with a line about each text when it is done.

        Raises:
            InputError: The dense model gives NaN or infinite logits.
            ArtifactError: The folder cannot be loaded.
            EnvironmentFailure: The temporary folder is full.
        """
        say = on_progress or (lambda line: None)
        new_texts = [ids for ids in dict.fromkeys(texts) if ids not in self._texts]
        new_prompts = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._answered]
        if not new_texts and not new_prompts:
            return
        with open_torch_runner(self._folder, self._execution) as runner:
            runs = runner.run([Run([ids], len(ids)) for ids in new_texts])
            for index, (ids, logits) in enumerate(zip(new_texts, runs, strict=True)):
                if not np.isfinite(logits).all():
                    raise InputError(
                        f"the dense model gives NaN or infinite logits for text {index}; use another model or corpus"
                    )
                loss = text_loss(logits, ids)
                self._texts[ids] = _Answer(self._store.put(logits), loss)
                say(f"dense: text {index + 1} of {len(new_texts)}")
            self._continue(runner, new_prompts, steps, stops)

    def _continue(
        self, runner: TorchRunner, prompts: Sequence[Alternatives], steps: int, stops: Collection[int]
    ) -> None:
        """Continues the first alternative of all prompts together, then the second of those without an answer."""
        open_prompts = list(prompts)
        for number in range(max(map(len, prompts), default=0)):
            open_prompts = [alternatives for alternatives in open_prompts if number < len(alternatives)]
            following = runner.continuations([alternatives[number] for alternatives in open_prompts], steps, stops)
            for alternatives, tokens in zip(open_prompts, following, strict=True):
                self._answered[alternatives] = alternatives[number], tokens
            open_prompts = [
                alternatives for alternatives in open_prompts if len(self._answered[alternatives][1]) < _LEAST_ANSWER
            ]

    def reference(self, texts: Sequence[TokenIds]) -> DenseReference:
        """The dense model's predictions for texts that `run` has run.

        Raises:
            InputError: No text has a token to predict.
        """
        token_ids = tuple(texts)
        predicted = sum(len(ids) - 1 for ids in token_ids)
        if not all(token_ids) or not predicted:
            raise InputError("the evaluated texts have no token to predict; give longer texts")
        answers = [self._texts[ids] for ids in token_ids]
        losses = tuple(answer.loss for answer in answers)
        stored = tuple(answer.logits for answer in answers)
        return DenseReference(token_ids, perplexity_of(math.fsum(losses), predicted), losses, self._store, stored)

    def answer(self, prompts: Alternatives) -> tuple[TokenIds, TokenIds]:
        """The prompt taken of some alternatives that were run, and the tokens with which the model continues it."""
        return self._answered[prompts]


def text_loss(logits: NDArray[np.floating], ids: TokenIds) -> float:
    """The sum of -log P(next token) of a text of T tokens with its logits [T, V], nats, in float64."""
    step = max(1, _CHUNK_ELEMENTS // logits.shape[1])
    losses = []
    for start in range(0, len(ids) - 1, step):
        targets = ids[start + 1 : start + 1 + step]
        losses += (-log_likelihoods(logits[start : start + len(targets)], targets)).tolist()
    return math.fsum(losses)


def perplexity_of(loss: float, tokens: int) -> float:
    """exp of the mean loss of a token, which is capped at 700 so that exp stays finite."""
    return math.exp(min(loss / tokens, 700.0))
