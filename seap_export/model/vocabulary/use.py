"""Counts the tokens that texts use, and estimates how many tokens of further texts will be missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

#: Stands for the texts of a token that more than one text has.
_SEVERAL = None


class TokenUse:
    """How often tokens occur in texts, and in which of them if it is only one."""

    def __init__(self) -> None:
        self._counts = Counter[int]()
        self._only: dict[int, int | None] = {}
        self._seen: set[int] = set()

    @property
    def tokens(self) -> frozenset[int]:
        return frozenset(self._counts)

    @property
    def of_one_text(self) -> frozenset[int]:
        """The ids of the tokens that occur in only one text."""
        return frozenset(token for token, text in self._only.items() if text is not _SEVERAL)

    def add(self, text: str, ids: Iterable[int], version_of: str | None = None) -> None:
        """Counts the tokens of a text; one that was there before counts once.

        Args:
            version_of: A text that it has its prompt from; both are one text then, with two answers.
        """
        if (key := hash(text)) in self._seen:
            return
        self._seen.add(key)
        self._counts.update(ids := list(ids))
        for token in set(ids):
            self._is_in(token, hash(version_of or text))

    def add_uncounted(self, ids: Iterable[int]) -> None:
        """Adds tokens that occur, but not in a text as a whole."""
        for token in ids:
            self._counts[token] += 0

    def together_with(self, other: TokenUse) -> TokenUse:
        both = TokenUse()
        both._seen = self._seen | other._seen
        for part in (self, other):
            both._counts.update(part._counts)
            for token, text in part._only.items():
                both._is_in(token, text)
        return both

    def missing(self, kept: Collection[int]) -> float:
        """The share of a further text's tokens that will not be kept, 0 to 1.

        Each text in turn is left out, and its tokens that no other text has are counted.

        Args:
            kept: The tokens that are kept even without those `of_one_text`.
        """
        missing = sum(self._counts[token] for token in self.of_one_text - frozenset(kept))
        return missing / max(1, self._counts.total())

    def _is_in(self, token: int, text: int | None) -> None:
        self._only[token] = text if self._only.get(token, text) == text else _SEVERAL
