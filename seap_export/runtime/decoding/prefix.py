"""Keeps the cache of one text for the next one that begins with the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from seap_export.runtime.decoding.decoder import Decoding, OnnxDecoder, never


class PrefixCache:
    """The keys and values of the last text, of which the next one uses those of the tokens that both begin with.

    One text at a time: `start` hands its decoding out, and `keep` takes it back.
    """

    def __init__(self, decoder: OnnxDecoder) -> None:
        self._decoder = decoder
        self._tokens: list[int] = []
        self._decoding: Decoding | None = None

    def start(self, tokens: Sequence[int], max_new_tokens: int, cancelled: Callable[[], bool] = never) -> Decoding:
        """Runs a prompt, or what is new of it; raises the errors of `OnnxDecoder.start`."""
        decoding, self._decoding = self._decoding, None  # what fails leaves nothing behind
        pairs = zip(self._tokens, tokens[:-1], strict=False)  # the last one is run in any case, for its logits
        kept = next((index for index, (one, other) in enumerate(pairs) if one != other), None)
        kept = min(len(self._tokens), len(tokens) - 1) if kept is None else kept
        options = max_new_tokens, cancelled
        if decoding is not None and kept and self._decoder.resume(decoding, kept, tokens[kept:], *options):
            return decoding
        return self._decoder.start([tokens], *options)

    def keep(self, tokens: Sequence[int], decoding: Decoding) -> None:
        """Keeps a decoding, and the tokens that it has run."""
        self._tokens, self._decoding = list(tokens), decoding
