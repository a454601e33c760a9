"""`Tokens`: where the tokens of a call are among its padding."""

from __future__ import annotations

from typing import Protocol

import onnx_ir as ir


class Tokens(Protocol):
    """The tokens of a call; other columns of it are padding."""

    @property
    def positions(self) -> ir.Value:
        """The position of each token, int64 [batch_size, sequence_length]."""

    @property
    def row_last(self) -> ir.Value:
        """The position of the last token of each row, int64 [batch_size, 1]."""

    @property
    def real(self) -> ir.Value:
        """Which columns hold tokens, bool [batch_size, sequence_length, 1]."""

    @property
    def is_step(self) -> ir.Value:
        """Whether the call has a single token and earlier calls had others, bool [batch_size or 1, 1, 1]."""

    @property
    def last_columns(self) -> ir.Value:
        """The column of each row's last token, int64 [batch_size]."""

    @property
    def ends(self) -> ir.Value:
        """Number of columns up to each row's last token, int64 [batch_size]."""
