"""Decodes tokens to text as they arrive, in pieces that never split a character or lose a space, up to a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from seap_export.errors import UsageError

#: The character that a tokenizer's decoder returns for an incomplete one.
INCOMPLETE = "\ufffd"


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
        if not whole.startswith(before) or len(whole) == len(before) or whole.endswith(INCOMPLETE):
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


class StopTexts:
    """Ends a text before the first of some texts, and holds back what may become the beginning of one."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Raises `UsageError` if one is empty, for it would end every text at once."""
        self.is_reached = False
        self._texts, self._held = tuple(texts), ""
        if not all(texts):
            raise UsageError("a stop text is empty; give at least one character")

    def add(self, piece: str) -> str:
        """Takes the next piece of the text, and returns as much as can be given out."""
        if self.is_reached:
            return ""
        text = self._held + piece
        starts = [start for stop in self._texts if (start := text.find(stop)) >= 0]
        self.is_reached = bool(starts)
        end = min(starts) if starts else len(text) - self._open(text)
        self._held = text[end:]
        return text[:end]

    def end(self) -> str:
        """Ends the text, and returns the rest that was held back."""
        return "" if self.is_reached else self._held

    def _open(self, text: str) -> int:
        """How many of the last characters may be the beginning of a stop text."""
        longest = max(map(len, self._texts), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._texts)), 0)
