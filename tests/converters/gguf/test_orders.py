"""Rows and columns that llama.cpp has in another order."""

from __future__ import annotations

from support.variations import VARIATIONS, micro_config

from converters.gguf.choice import choose_architecture
from converters.gguf.orders import Orders
from seap_export.model.families import model_spec


def test_value_heads_follow_each_other_as_llama_cpp_repeats_key_heads() -> None:
    """The first of each of three key heads, then the second: llama.cpp repeats queries and keys as a whole."""
    spec = model_spec(micro_config(**VARIATIONS["qwen3_5"]))
    orders = Orders(choose_architecture(spec), spec, 0)
    decays, rows, columns = orders.rows("delta_a_log"), orders.rows("delta_qkv_proj"), orders.columns("delta_out_proj")
    assert decays is not None
    assert rows is not None
    assert columns is not None
    assert decays.tolist() == [0, 2, 4, 1, 3, 5]
    assert rows.tolist() == [*range(96), *(96 + columns).tolist()]  # queries and keys as they are
    assert columns[::16].tolist() == [0, 32, 64, 16, 48, 80]
