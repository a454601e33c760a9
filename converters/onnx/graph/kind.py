"""What the graph of a decoder asks of a kind of sublayer."""

from __future__ import annotations

from typing import Protocol

import onnx_ir as ir

__all__ = ["KindWriter"]


class KindWriter(Protocol):
    """Emits what sublayers of one kind compute of what they read."""

    def open(self, index: int) -> None:
        """Declares the inputs for the state that a layer's sublayer keeps between calls, if it keeps any."""

    def product(self, index: int, x: ir.Value) -> ir.Value:
        """What the output projection of a layer's sublayer gives without its bias, [batch_size, sequence_length,
        hidden_size].

        Args:
            index: The layer.
            x: What the sublayer reads, [batch_size, sequence_length, hidden_size].
        """

    def close(self, index: int) -> None:
        """Declares the outputs for the new state."""
