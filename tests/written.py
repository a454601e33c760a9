"""Micro models whose graphs are written in several dialects and precisions: a family, and its config."""

from __future__ import annotations

from typing import Any

#: Layers of shapes of their own, with biases from compensation.
PRUNED: dict[str, Any] = {
    "per_layer_config": {
        0: {"num_attention_heads": 3, "num_key_value_heads": 3, "intermediate_size": 41, "o_proj_bias": True},
        1: {"num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 1, "down_proj_bias": True},
    }
}
WRITTEN: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {**PRUNED, "attention_bias": True, "mlp_bias": True}),
    ("mistral", {"sliding_window": 5}),
    ("qwen2", {**PRUNED, "tie_word_embeddings": True}),
]
