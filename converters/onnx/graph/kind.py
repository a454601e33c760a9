"""What the graph of a decoder asks of a kind of sublayer."""

from __future__ import annotations

from typing import Protocol

import onnx_ir as ir

__all__ = ["KindWriter"]


class KindWriter(Protocol):
    """Emits what sublayers of one kind compute between what they read and their output projection."""

    def open(self, index: int) -> None:
        """Declares the inputs for the state that a layer's sublayer keeps between calls, if it keeps any."""

    def channels(self, index: int, x: ir.Value) -> ir.Value:
        """What the output projection of a layer's sublayer reads, [batch_size, sequence_length, channels].

        Args:
            index: The layer.
            x: What the sublayer reads, [batch_size, sequence_length, hidden_size].
        """

    def close(self, index: int) -> None:
        """Declares the outputs for the new state."""
