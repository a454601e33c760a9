"""The ideal speed-up is counted from the shapes, by hand here."""

from __future__ import annotations

from typing import Any

import pytest
from support.product import BlockQuantization, Precision

from seap_export.model.families import model_spec
from validation.speed.ideal import model_work

CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 96,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip
LINEAR = 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 96)
HEAD = 100 * 64
CACHED = 2 * 2 * 2 * 16  # layers, keys and values, KV heads, width


@pytest.mark.parametrize("last_logits", [True, False])
def test_work_of_a_dense_model(last_logits: bool) -> None:
    work = model_work(model_spec(CONFIG), Precision(), 3, 10, last_logits=last_logits)
    assert work.decode_bytes == 4 * (LINEAR + HEAD + 3 * 10 * CACHED)
    attention = sum(2 * 4 * 16 * seen for _ in range(2) for seen in range(1, 11))
    assert work.prefill_macs == 3 * (10 * LINEAR + (1 if last_logits else 10) * HEAD + attention)


def test_bytes_of_quantised_weights() -> None:
    spec = model_spec(CONFIG)
    whole = model_work(spec, Precision("fp32", BlockQuantization(4)), 1, 1, last_logits=True)
    assert whole.decode_bytes == (LINEAR + HEAD) * (0.5 + 4 / 32) + 4 * CACHED
    with_points = Precision("fp16", BlockQuantization(8, 64, symmetric=False, embeddings=False))
    assert with_points.weight_bytes == with_points.read_bytes == 1 + (2 + 1) / 64
    assert Precision("fp32", BlockQuantization(4)).weight_bytes == 0.5 + 2 / 32
    assert Precision("fp32", BlockQuantization(3)).read_bytes == 0.5 + 4 / 32
    part = model_work(spec, with_points, 1, 1, last_logits=True)
    assert part.decode_bytes == LINEAR * with_points.weight_bytes + 2 * (HEAD + CACHED)


def test_a_pruned_model_has_less() -> None:
    pruned = {
        **CONFIG,
        "model_type": "seap_llama",
        "per_layer_config": {"1": {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}},
    }
    dense, less = (model_work(model_spec(config), Precision(), 1, 8, last_logits=True) for config in (CONFIG, pruned))
    removed = 64 * 32 + 2 * 64 * 16 + 32 * 64 + 3 * 64 * 64
    assert dense.decode_bytes - less.decode_bytes == 4 * (removed + 8 * 2 * 16)
    assert dense.prefill_macs - less.prefill_macs == 8 * removed + 2 * 2 * 16 * 36
