"""`Vocabulary`: the tokens that a variant keeps, with their old ids and new ones."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Vocabulary:
    """Kept tokens; a token's new id is its place among them.

    Attributes:
        kept: The old ids, sorted.
        of: Number of tokens of the dense model.
    """

    kept: tuple[int, ...]
    of: int

    def __post_init__(self) -> None:
        if not self.kept or list(self.kept) != sorted(set(self.kept)) or self.kept[0] < 0 or self.kept[-1] >= self.of:
            raise ValueError("a vocabulary must be a sorted list of distinct token ids of the model, not empty")

    def __len__(self) -> int:
        return len(self.kept)

    @cached_property
    def new_ids(self) -> Mapping[int, int]:
        """The new id of each kept token by its old one."""
        return {old: new for new, old in enumerate(self.kept)}

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The old ids of the kept tokens, int64 [kept]."""
        return np.asarray(self.kept, np.int64)

    def to_json(self) -> dict[str, Any]:
        """The number of kept tokens and of all, and a bit for each token, the first in the highest bit, as base64."""
        bits = np.zeros(self.of, np.bool_)
        bits[self.rows] = True
        return {"tokens": len(self), "of": self.of, "kept": base64.b64encode(np.packbits(bits).tobytes()).decode()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Vocabulary:
        """Reads what `to_json` gave.

        Raises:
            ValueError, KeyError, TypeError: It contradicts itself.
        """
        count, tokens = values["of"], values["tokens"]
        try:
            data = base64.b64decode(values["kept"], validate=True)
        except binascii.Error as error:
            raise ValueError("the bits of its vocabulary are damaged") from error
        if type(count) is not int or len(data) != -(-count // 8):
            raise ValueError("the bits of its vocabulary do not fit the number of tokens")
        kept = np.flatnonzero(np.unpackbits(np.frombuffer(data, np.uint8)))
        if len(kept) != tokens:
            raise ValueError("the bits of its vocabulary do not fit the number of kept tokens")
        return cls(tuple(kept.tolist()), count)
