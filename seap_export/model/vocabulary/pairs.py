"""The merges of a byte-pair encoding, and how they make each token.

A BPE cuts a word into characters and then merges two neighbours again and again: always the pair with the lowest rank,
the first one of several. No merge is ever undone, so all that is made on the way to a token lies within the token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from seap_export.errors import InputError

#: Why other kinds of tokenizers are refused.
_REASONS = {
    "Unigram": "Unigram chooses among all cuts of a word by the scores of all tokens",
    "WordPiece": "WordPiece replaces a word by 'unknown' where no token fits",
    "WordLevel": "WordLevel replaces a word by 'unknown' where no token fits",
}
_REMEDY = "use --vocabulary all"
#: The parts of a tokenizer.json that name characters.
_PARTS = ("normalizer", "pre_tokenizer", "decoder")


def _byte(value: int) -> str:
    return f"<0x{value:02X}>"


@dataclass(frozen=True)
class BytePairs:
    """The model of a tokenizer.json.

    Attributes:
        ids: Token ids by text.
        merges: For each pair of ids that is merged, the id that it becomes, and the rank of the merge.
        alphabet: The tokens without which some text could not be cut.
        falls_back: Whether a character without a token is cut into bytes.
    """

    ids: Mapping[str, int]
    merges: Mapping[tuple[int, int], tuple[int, int]]
    alphabet: frozenset[int]
    falls_back: bool

    @classmethod
    def read(cls, tokenizer: Mapping[str, Any]) -> BytePairs:
        """Reads the content of a tokenizer.json.

        Raises:
            InputError: It is not a BPE, or one of a kind whose cuts depend on more than its merges.
        """
        model = tokenizer.get("model") or {}
        kind = model.get("type") or ("BPE" if "merges" in model else "unknown")
        if kind != "BPE":
            reason = _REASONS.get(kind, "only those of BPE can be cut down")
            raise InputError(f"the vocabulary of a {kind} tokenizer cannot be cut: {reason}; {_REMEDY}")
        for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(key):
                raise InputError(f"the vocabulary of a BPE tokenizer with '{key}' cannot be cut; {_REMEDY}")
        ids = dict(model["vocab"])
        merges: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, merge in enumerate(model["merges"]):
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            merges[ids[left], ids[right]] = rank, ids[left + right]
        falls_back = bool(model.get("byte_fallback")) and all(_byte(value) in ids for value in range(256))
        unknown = {ids[text] for text in (model.get("unk_token"),) if text in ids}
        units = unknown | ({ids[_byte(value)] for value in range(256)} if falls_back else set[int]())
        if not units.isdisjoint(part for pair in merges for part in pair):
            raise InputError(
                "the vocabulary of a BPE tokenizer that merges byte tokens or unknown characters cannot be cut; "
                + _REMEDY
            )
        letters = {text: token for text, token in ids.items() if len(text) == 1}
        if falls_back:  # other characters are cut into bytes; the decoder must find those that it replaces
            replaced = json.dumps([tokenizer.get(part) for part in _PARTS], ensure_ascii=False)
            letters = {text: token for text, token in letters.items() if text.isascii() or text in replaced}
        return cls(ids, merges, frozenset(units | set(letters.values())), falls_back)

    def parts(self, text: str) -> frozenset[int]:
        """All tokens that are made on the way to the token `text`, with itself and its characters.

        These are the same wherever the token occurs in a text (docs/research/vocabulary.md). Empty: no merges make it.
        """
        symbols = [symbol for letter in text for symbol in self._units(letter)]
        tokens = set(symbols)
        while True:
            pairs = [self.merges.get(pair) for pair in pairwise(symbols)]
            possible = [(merge[0], start, merge[1]) for start, merge in enumerate(pairs) if merge is not None]
            if not possible:
                return frozenset(tokens) if symbols == [self.ids.get(text)] else frozenset()
            _, start, token = min(possible)
            symbols[start : start + 2] = [token]
            tokens.add(token)

    def _units(self, letter: str) -> list[int]:
        """The ids of a character before any merge: its own, or those of its bytes; -1 if it is unknown."""
        if letter in self.ids:
            return [self.ids[letter]]
        return [self.ids[_byte(value)] for value in letter.encode()] if self.falls_back else [-1]
