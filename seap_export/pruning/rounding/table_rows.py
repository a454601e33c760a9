"""Bits for the rows of a table: those of common tokens have more than those of rare ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True)
class TablePart:
    """The rows of a table that have the same bits: `rows` of the table, ascending, int64."""

    name: str
    bits: int
    rows: torch.Tensor


@dataclass(frozen=True)
class TableRows:
    """A table [vocab_size, hidden_size] whose rows have bits of their own.

    Attributes:
        name: The full name of its weight.
        block_size: Number of weights of a row that share a scale.
        bits: A digit for each row: the bits of its weights.

    Raises:
        ValueError: There is no row, a digit is no number of bits, or there are no such blocks.
    """

    name: str
    block_size: int
    bits: str

    def __post_init__(self) -> None:
        if not self.bits or not set(self.bits) <= set("234568"):
            raise ValueError(f"the bits of the rows of '{self.name}' must be digits from 2 to 6, or 8")
        if self.block_size not in (32, 64, 128):
            raise ValueError(f"the rows of '{self.name}' must have blocks of 32, 64 or 128, not {self.block_size}")

    @cached_property
    def parts(self) -> tuple[TablePart, ...]:
        """The rows with the same bits, most bits first."""
        digits = torch.frombuffer(bytearray(self.bits, "ascii"), dtype=torch.uint8)
        return tuple(
            TablePart(f"{self.name}.{digit}", int(digit), (digits == ord(digit)).nonzero().flatten())
            for digit in sorted(set(self.bits), reverse=True)
        )

    @cached_property
    def places(self) -> torch.Tensor:
        """Where each row is, if all parts lie one below the other, int32 [vocab_size]."""
        places = torch.empty(len(self.bits), dtype=torch.int32)
        places[torch.cat([part.rows for part in self.parts])] = torch.arange(len(self.bits), dtype=torch.int32)
        return places
