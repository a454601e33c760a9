"""Pruned micro models of every family, in a folder as an export leaves it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

#: Layers 0 and 2 keep the same number of KV heads, so that their caches can be mistaken for one another.
_PER_LAYER = {
    0: {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24, "o_proj_bias": True},
    1: {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40},
    2: {"num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 8, "down_proj_bias": True},
}
_SIZES = {
    "vocab_size": 53, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 64, "per_layer_config": _PER_LAYER,
}  # fmt: skip


@pytest.fixture(scope="session")
def micro_hf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`micro_hf("Llama")`: the folder of that family's micro model, made once."""
    from support.models import write_micro_model

    @cache
    def make(family: str) -> Path:
        folder, name = tmp_path_factory.mktemp(f"hf_{family}"), f"seap_{family.lower()}"
        return write_micro_model(folder, seed=len(family), model_type=name, **_SIZES)

    return make
