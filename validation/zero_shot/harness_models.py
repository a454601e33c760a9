"""Models of the lm-evaluation-harness: a model folder in torch, and a written folder in any runtime.

They split and score tokens in the same way as `lm_eval.models.huggingface.HFLM`, in batches of sequences of similar
length, padded on the right. The harness's own class for transformers models holds the whole model and computes the
logits of all tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from numpy.typing import NDArray

from seap_export.errors import InputError
from seap_export.runtime.files import too_slow
from seap_export.runtime.limits import watched
from validation.likelihood import log_likelihoods
from validation.runtimes.pytorch.torch_runner import TorchRunner
from validation.runtimes.runner import Runner, padded

Answer = tuple[float, bool]
TokenIds = tuple[int, ...]
#: (prompt, continuation) or None, and the tokens of each.
Request = tuple[tuple[str, str] | None, list[int], list[int]]


class _BatchLM(TemplateLM):
    """Log-likelihoods of continuations; does not generate text."""

    def __init__(
        self, tokenizer: Any, *, max_length: int, batch_size: int, on_sequences: Callable[[int, int], None]
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._batch_size = batch_size
        self._on_sequences = on_sequences

    @property
    def eot_token_id(self) -> int:
        """The id of the tokenizer's end-of-text token, EOS."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token before a continuation without a prompt: BOS or, if there is none, EOS."""
        beginning = self.tokenizer.bos_token_id
        return self.eot_token_id if beginning is None else int(beginning)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; by default with the special tokens that the tokenizer adds, unless the text contains them."""
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        choice = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(watched(lambda: self.tokenizer.encode(string, **choice), len(string), too_slow))

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Not supported; multiple choice does not need it."""
        raise NotImplementedError

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Not supported; multiple choice does not need it."""
        raise NotImplementedError

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **options: Any
    ) -> list[Answer]:
        """The sum of log P over each continuation's tokens in nats, and whether greedy decoding gives these tokens.

        Requests that differ only in the last token, such as one-token choices for one prompt, share a sequence.
        """
        _check_lengths(requests, self.max_length)
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, (_, context, continuation) in enumerate(requests):
            alike[tuple(self._model_input(context, continuation))].append(number)
        sequences = sorted(alike, key=lambda ids: (-len(ids), ids))  # longest first, so that memory runs out at once
        batches = [sequences[start : start + self._batch_size] for start in range(0, len(sequences), self._batch_size)]
        kept = {ids: max(len(requests[number][2]) for number in numbers) for ids, numbers in alike.items()}
        answers: dict[int, Answer] = {}
        for batch, rows in zip(batches, self._logits(batches, kept), strict=True):
            for ids, logits in zip(batch, rows, strict=True):
                for number in alike[ids]:
                    answers[number] = _score(logits, requests[number][2])
            self._on_sequences(len(batch), len(sequences))
        return [answers[number] for number in range(len(requests))]

    def _model_input(self, context: list[int], continuation: list[int]) -> list[int]:
        """All tokens but the last, which is only predicted, truncated on the left to the maximum length."""
        return (context + continuation)[-(self.max_length + 1) :][:-1]

    @abstractmethod
    def _logits(
        self, batches: Sequence[Sequence[TokenIds]], kept: dict[TokenIds, int]
    ) -> Iterator[Sequence[NDArray[np.floating]]]:
        """For each batch the logits of its sequences, [at least `kept`, V] each, of the last tokens."""


class TorchLM(_BatchLM):
    """Log-likelihoods computed by torch, a layer at a time."""

    def __init__(self, runner: TorchRunner, tokenizer: Any, **arguments: Any) -> None:
        super().__init__(tokenizer, **arguments)
        self._runner = runner

    def _logits(
        self, batches: Sequence[Sequence[TokenIds]], kept: dict[TokenIds, int]
    ) -> Iterator[Sequence[NDArray[np.floating]]]:
        sizes = [(len(batch), max(map(len, batch))) for batch in batches]
        blocks = self._runner.blocks([rows * self._runner.passing_bytes(tokens) for rows, tokens in sizes])
        for block in blocks:
            ids = [[torch.from_numpy(padded(batches[index]))] for index in block]
            passages = self._runner.start(ids, cached=False)
            self._runner.pass_layers(passages, keep=block.stop < len(batches))
            with self._runner.head():
                for index, passage in zip(block, passages, strict=True):
                    yield self._of_batch(passage.hidden[0], batches[index], kept)

    def _of_batch(
        self, hidden: torch.Tensor, batch: Sequence[TokenIds], kept: dict[TokenIds, int]
    ) -> list[NDArray[np.floating]]:
        """The logits of the kept tokens of all sequences in one product."""
        kept_rows = [row[len(ids) - kept[ids] : len(ids)] for row, ids in zip(hidden, batch, strict=True)]
        logits = self._runner.logits(torch.cat(kept_rows)[None])[0]
        return np.split(logits, np.cumsum([len(row) for row in kept_rows])[:-1])


class RunnerLM(_BatchLM):
    """Log-likelihoods computed by a runtime, which gives logits or log-probabilities of all tokens of a prompt."""

    def __init__(self, runner: Runner, tokenizer: Any, **arguments: Any) -> None:
        super().__init__(tokenizer, **arguments)
        self._runner = runner

    def _logits(
        self, batches: Sequence[Sequence[TokenIds]], kept: dict[TokenIds, int]
    ) -> Iterator[Sequence[NDArray[np.floating]]]:
        for batch in batches:
            logits = self._runner.prefill(padded(batch), [len(ids) for ids in batch])
            yield [logits[row, : len(ids)] for row, ids in enumerate(batch)]


def _check_lengths(requests: Iterable[Request], max_length: int) -> None:
    """Rejects continuations that a model with `max_length` positions cannot score."""
    for pair, _, continuation in requests:
        if not 1 <= len(continuation) <= max_length:
            which = "a choice" if pair is None else f"choice {pair[1]!r:.40}"
            raise InputError(
                f"{which} has {len(continuation)} tokens, but the model accepts 1 to {max_length}; remove the question"
            )


def _score(logits: NDArray[np.floating], continuation: list[int]) -> Answer:
    """Scores the continuation, which is predicted by the last rows of the logits [T, V]."""
    scored = logits[-len(continuation) :]
    likelihood = float(log_likelihoods(scored, continuation).sum())
    return likelihood, bool((scored.argmax(axis=1) == continuation).all())
