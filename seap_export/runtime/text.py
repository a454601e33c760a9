"""The text of tokens as they come, in pieces that never break a character or lose a space."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

__all__ = ["TextStream"]

#: What a decoder puts where the bytes of a character are not all there.
_INCOMPLETE = "\ufffd"


class TextStream:
    """The text that follows a prompt; all pieces together are the text, without special tokens.

    A piece is the difference between two decoded texts that begin at the same earlier token: some tokenizers drop
    the space at the start of a text, and some spread a character over several tokens.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        """Starts behind the prompt's token ids."""
        self._tokenizer, self._tokens = tokenizer, list(prompt)
        self._begin, self._given = 0, len(self._tokens)  # the text of tokens[begin:given] is the context of a piece

    def add(self, token: int) -> str:
        """The piece that the next token completes; often "" while a character is incomplete."""
        self._tokens.append(token)
        before, whole = self._decoded()
        if not whole.startswith(before) or len(whole) == len(before) or whole.endswith(_INCOMPLETE):
            return ""
        self._begin, self._given = self._given, len(self._tokens)
        return whole[len(before) :]

    def end(self) -> str:
        """What is left after the last token, complete or not."""
        before, whole = self._decoded()
        if whole.startswith(before):
            return whole[len(before) :]
        return self._tokenizer.decode(self._tokens[self._given :])  # the decoder changes what stands before

    def _decoded(self) -> tuple[str, str]:
        """The text of the context, and that of the context and of all that has come since."""
        decode, tokens = self._tokenizer.decode, self._tokens
        return decode(tokens[self._begin : self._given]), decode(tokens[self._begin :])
