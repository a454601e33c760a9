"""Pruned micro models of every family, in a folder as an export leaves it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

_WORDS = ("<unk>", "the", "a", "cat", "dog", "mat", "sat", "on", "and")
#: Layers 0 and 2 keep the same number of KV heads, so that their caches can be mistaken for one another.
_PER_LAYER = {
    0: {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24, "o_proj_bias": True},
    1: {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40},
    2: {"num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 8, "down_proj_bias": True},
}


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(_WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


def _write_model(folder: Path, family: str, seed: int) -> None:
    import torch

    from seap_export.modeling import configuration_seap, modeling_seap

    config = getattr(configuration_seap, f"Seap{family}Config")(
        vocab_size=53,
        hidden_size=32,
        head_dim=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        per_layer_config=_PER_LAYER,
    )
    generator = torch.Generator().manual_seed(seed)
    model = getattr(modeling_seap, f"Seap{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if name.endswith("norm.weight") else 0.0
            parameter.copy_(centre + 0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def micro_hf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`micro_hf("Llama")`: the folder of that family's micro model, made once."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp(f"hf_{family}")
            _write_model(folder, family, seed=len(family))
            _write_tokenizer(folder)
            made[family] = folder
        return made[family]

    return make
