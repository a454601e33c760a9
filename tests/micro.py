"""Micro models of every family, made on the fly: three layers, big enough weights that attention matters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
#: Ways in which models of the families differ, each a set of config values.
VARIATIONS: dict[str, dict[str, Any]] = {
    "llama-mha": {"model_type": "llama", "num_key_value_heads": 6},
    "llama-gqa": {"model_type": "llama"},
    "llama-mqa": {"model_type": "llama", "num_key_value_heads": 1},
    "llama-biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-linear": {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama-llama3": {
        "model_type": "llama",
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "llama-yarn": {
        "model_type": "llama",
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    },
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "mistral-window": {"model_type": "mistral", "sliding_window": 5},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-window": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "qwen3-biases": {"model_type": "qwen3", "attention_bias": True},
}
_TEXT = "the a cat dog mat sat on and then it ran far from home to see one more time"
WORDS = tuple(_TEXT.split())


def micro_config(**values: Any) -> dict[str, Any]:
    """A config.json as transformers 4.57 and 5 both read it; `values` replace the defaults."""
    return {
        "vocab_size": 96,
        "hidden_size": 96,
        "head_dim": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "intermediate_size": 80,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "dtype": "float32",
        **values,
    }


def write_micro_model(folder: Path, seed: int = 0, dtype: str = "float32", **values: Any) -> Path:
    """A dense model folder with random weights and a tokenizer; the same seed gives the same weights."""
    import torch
    from safetensors.torch import save_file

    from seap_export.families import model_spec

    config = micro_config(dtype=dtype, **values)
    spec = model_spec(config)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in spec.tensors().items():
        centre = 1.0 if "norm" in name else 0.0
        scale = 0.5 if "embed" in name else 0.25
        tensors[name] = (centre + scale * torch.randn(shape, generator=generator)).to(getattr(torch, dtype))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config["architectures"] = [spec.family.architecture]
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "pad_token_id": 0}), "utf-8")
    write_micro_tokenizer(folder)
    return folder


def write_micro_tokenizer(folder: Path) -> None:
    """A word-level tokenizer over `WORDS`."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: index for index, word in enumerate(("<pad>", "<s>", "</s>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"unk_token": "<unk>", "eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


def micro_texts(number: int, seed: int = 0) -> list[str]:
    """Distinct texts of 4 to 24 words."""
    import random

    chance = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < number:
        texts[" ".join(chance.choices(WORDS, k=chance.randint(4, 24)))] = None
    return list(texts)


def write_corpus(path: Path, number: int = 60, seed: int = 0) -> Path:
    """A JSONL corpus of `micro_texts`."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in micro_texts(number, seed)), "utf-8")
    return path


@contextmanager
def one_thread() -> Iterator[None]:
    """As tests on micro models run: the last bits of some sums depend on the number of threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
