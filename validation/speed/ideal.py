"""The least work of a model: the bytes that a decode step reads and the multiply-adds of a prefill."""

from __future__ import annotations

from dataclasses import dataclass

from converters.onnx.precision import Precision
from seap_export.model.families import Attention, ModelSpec


@dataclass(frozen=True)
class ModelWork:
    """The work of one batch at one depth.

    Attributes:
        decode_bytes: Bytes of all linear layers and the LM head, read once, and of the keys and values of all rows.
        prefill_macs: Multiply-adds of the linear layers, of causal attention and of the LM head.
    """

    decode_bytes: float
    prefill_macs: float

    def __post_init__(self) -> None:
        if not (self.decode_bytes > 0 and self.prefill_macs > 0):
            raise ValueError("the work of a model must be positive")


def model_work(spec: ModelSpec, precision: Precision, batch: int, depth: int, *, last_logits: bool) -> ModelWork:
    """The least work for `batch` rows of `depth` tokens.

    Args:
        spec: The model's shapes.
        precision: Precision of the stored weights and caches.
        batch: Number of rows.
        depth: Tokens in each row.
        last_logits: Whether the LM head runs only for the last token of each row.
    """
    layers = range(len(spec.layers))
    linear = sum(spec.prunable_weights(layer) for layer in layers)
    head = spec.vocab_size * spec.hidden_size
    cached = sum(2 * attention.num_key_value_heads * attention.head_dim for attention in spec.all(Attention))
    grid = precision.quantization
    has_float_head = grid is not None and not grid.takes_table(spec.hidden_size)
    return ModelWork(
        decode_bytes=linear * precision.read_bytes
        + head * (precision.dtype_bytes if has_float_head else precision.read_bytes)
        + batch * depth * cached * precision.dtype_bytes,
        prefill_macs=batch
        * (
            depth * linear
            + (1 if last_logits else depth) * head
            + sum(_attention_macs(attention.channels, depth) for attention in spec.all(Attention))
        ),
    )


def _attention_macs(channels: int, depth: int) -> int:
    """Scores and weighted sums over the values, each token attending to itself and all earlier ones."""
    return 2 * channels * (depth * (depth + 1) // 2)
