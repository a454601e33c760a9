"""Where the tokens of a call are."""

from __future__ import annotations

from typing import Protocol

import onnx_ir as ir


class Tokens(Protocol):
    """The tokens of a call, padding among them."""

    @property
    def positions(self) -> ir.Value:
        """The position of each, int64 [batch_size, sequence_length]."""

    @property
    def row_last(self) -> ir.Value:
        """The position of the last one of each row, int64 [batch_size, 1]."""

    @property
    def real(self) -> ir.Value:
        """Which are no padding, bool [batch_size, sequence_length, 1]."""

    @property
    def is_step(self) -> ir.Value:
        """Whether there is a single one, and earlier calls had others, bool [batch_size or 1, 1, 1]."""

    @property
    def last_columns(self) -> ir.Value:
        """The column of each row's last real one, int64 [batch_size]."""

    @property
    def ends(self) -> ir.Value:
        """The columns up to each row's last real one, int64 [batch_size]."""
