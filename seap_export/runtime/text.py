"""Decodes tokens to text as they arrive, in pieces that never split a character or lose a space."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

#: The character that a tokenizer's decoder returns for an incomplete one.
_INCOMPLETE = "\ufffd"


class TextStream:
    """The text that follows a prompt, without special tokens; joined, the pieces are the whole text.

    A piece is the difference between two decoded texts that start at the same earlier token: some tokenizers drop
    the space at the start of a text, and some split a character over several tokens.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        """Starts after the prompt's token ids."""
        self._tokenizer, self._tokens = tokenizer, list(prompt)
        self._begin, self._given = 0, len(self._tokens)  # tokens[begin:given] is the context of the next piece

    def add(self, token: int) -> str:
        """The piece that the next token completes; often "" while a character is incomplete."""
        self._tokens.append(token)
        before, whole = self._decoded()
        if not whole.startswith(before) or len(whole) == len(before) or whole.endswith(_INCOMPLETE):
            return ""
        self._begin, self._given = self._given, len(self._tokens)
        return whole[len(before) :]

    def end(self) -> str:
        """The rest of the text after the last token, complete or not."""
        before, whole = self._decoded()
        if whole.startswith(before):
            return whole[len(before) :]
        return self._tokenizer.decode(self._tokens[self._given :])  # here decoding changed the earlier text

    def _decoded(self) -> tuple[str, str]:
        """The text of the context, and the text of the context and all tokens since."""
        decode, tokens = self._tokenizer.decode, self._tokens
        return decode(tokens[self._begin : self._given]), decode(tokens[self._begin :])
