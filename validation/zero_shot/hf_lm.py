"""The harness's class for transformers models, extended to report progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.models.huggingface import HFLM

from validation.zero_shot.requests import Request, check_lengths

__all__ = ["CountingHFLM"]


class CountingHFLM(HFLM):
    """`HFLM` for a loaded model.

    Args:
        model: A transformers causal language model in evaluation mode.
        tokenizer: A transformers tokenizer.
        batch_size: Sequences per batch; the longest come first, padding is on the right.
        on_sequences: Called after each batch with its number of sequences and the total.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int, on_sequences: Callable[[int, int], None]) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
        self._on_sequences = on_sequences
        self._total = 0

    def _loglikelihood_tokens(self, requests: Sequence[Request], *args: Any, **options: Any) -> Any:
        check_lengths(requests, self.max_length)
        # requests that differ only in the last token share a sequence
        self._total = len({(*context, *continuation[:-1]) for _, context, continuation in requests})
        return super()._loglikelihood_tokens(requests, *args, **options)

    def _model_call(self, inps: Any, *args: Any, **options: Any) -> Any:
        logits = super()._model_call(inps, *args, **options)
        self._on_sequences(len(inps), self._total)
        return logits
