"""Micro models of every family with a GGUF form, written as llama.cpp's converter writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType

from support.corpora import WORDS
from support.formats.written import WrittenModel
from support.models import write_micro_model
from support.tokenizers import pairs_of_words

_LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
_YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 4.0, "beta_slow": 1.0,
}  # fmt: skip
#: A GGUF file gives no scale of Gemma's attention: llama.cpp takes that of its heads.
_GEMMA = {"query_pre_attn_scalar": 16, "tie_word_embeddings": True}
#: Six layers, of which the last has no window.
_GEMMA3 = {
    **_GEMMA, "model_type": "gemma3_text", "num_hidden_layers": 6, "sliding_window": 5, "sliding_window_pattern": 6,
}  # fmt: skip
_SMOLLM3 = {"model_type": "smollm3", "num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]}
GGUF_VARIATIONS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-llama3": {"model_type": "llama", "rope_scaling": _LLAMA3},
    "llama-yarn": {"model_type": "llama", "rope_scaling": {**_YARN, "attention_factor": 1.0}},
    "arcee": {"model_type": "arcee", "rope_scaling": _LLAMA3},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "ernie4_5": {"model_type": "ernie4_5", "head_dim": 24},
    "exaone4": {"model_type": "exaone4", "rope_scaling": _LLAMA3},
    "exaone4-window": {
        "model_type": "exaone4", "num_hidden_layers": 4, "sliding_window": 5,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    },
    "olmo2": {"model_type": "olmo2"},
    "gemma": {"model_type": "gemma", "tie_word_embeddings": True},
    "gemma2": {
        **_GEMMA, "model_type": "gemma2", "sliding_window": 5, "attn_logit_softcapping": 2.0,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "final_logit_softcapping": 8.0,
    },
    "gemma3": _GEMMA3,
    "gemma3-linear": {
        **_GEMMA3, "rope_scaling": {"rope_type": "linear", "factor": 4.0}, "final_logit_softcapping": 8.0,
    },
    "glm4": {"model_type": "glm4", "attention_bias": True, "partial_rotary_factor": 0.5},
    "granite": {
        "model_type": "granite", "embedding_multiplier": 3.0, "residual_multiplier": 0.4, "logits_scaling": 2.0,
    },
    "hunyuan": {"model_type": "hunyuan_v1_dense", "rope_theta": 11158840.0, "max_position_embeddings": 262144},
    "ministral3": {
        "model_type": "ministral3",
        "rope_parameters": {
            **_YARN, "rope_theta": 10000.0, "original_max_position_embeddings": 8, "mscale": 1.0,
            "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.5,
        },
    },
    "phi3": {"model_type": "phi3"},
    "phi3-long": {
        "model_type": "phi3", "original_max_position_embeddings": 16, "partial_rotary_factor": 0.75,
        "rope_scaling": {
            "type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
            "long_factor": [1.0, 2.0, 3.0, 4.0, 6.0, 8.0],
        },
    },
    "seed_oss": {"model_type": "seed_oss", "attention_bias": True},
    "smollm3": _SMOLLM3,
    "smollm3-yarn": {**_SMOLLM3, "rope_scaling": _YARN},
}  # fmt: skip
_ARCHITECTURES = {"gemma3_text": "gemma3", "hunyuan_v1_dense": "hunyuan-dense", "ministral3": "mistral3"}
#: Their converters are made from that of Llama.
_LIKE_LLAMA = ("llama", "arcee", "granite", "smollm3", "mistral3")
_KINDS = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}


def write_micro_gguf(
    folder: Path,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    norms: GGMLQuantizationType = GGMLQuantizationType.F32,
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    fuse_qkv: bool = False,
    **values: Any,
) -> Path:
    """`model.gguf` next to the model of `write_micro_model` that it is made from, in these encodings.

    Metadata without a known prefix are the architecture's; None drops one. The converter fuses q, k and v on demand.
    """
    from safetensors.numpy import load_file

    config = json.loads((write_micro_model(folder, **values) / "config.json").read_text("utf-8"))
    stored = load_file(folder / "model.safetensors")
    architecture = _ARCHITECTURES.get(config["model_type"], config["model_type"])
    writer = gguf.GGUFWriter(folder / "model.gguf", architecture)
    written = {f"{architecture}.{key}": value for key, value in _metadata(architecture, config).items()}
    prefixes = ("general.", "split.", "tokenizer.")
    given = (metadata or {}).items()
    more = {key if key.startswith(prefixes) else f"{architecture}.{key}": value for key, value in given}
    for key, value in {**written, **_tokenizer(config["vocab_size"]), **more}.items():
        if value is not None:
            getattr(writer, f"add_{_KINDS[type(value)]}")(key, value)
    converted = {**_converted(architecture, config, stored), **_rope_tensors(config)}
    if fuse_qkv:
        converted = _fused(converted)
    for name, data in converted.items():
        encoding = kind if data.ndim > 1 else norms
        writer.add_tensor(name, gguf.quants.quantize(data, encoding), raw_dtype=encoding)
    for name, data in (tensors or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "model.gguf"


def _metadata(architecture: str, config: dict[str, Any]) -> dict[str, Any]:
    rope = config.get("rope_parameters") or config["rope_scaling"] or {}
    head_dim = config["head_dim"]
    values: dict[str, Any] = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
    }
    if architecture not in ("granite", "phi3"):
        values |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    if architecture not in ("gemma", "gemma2"):
        values["rope.freq_base"] = float(rope.get("rope_theta") or config["rope_theta"])
    if architecture in _LIKE_LLAMA:
        values |= {"vocab_size": config["vocab_size"], "rope.dimension_count": head_dim}
    if rope.get("rope_type") in ("linear", "yarn"):
        values |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
    if rope.get("rope_type") == "yarn":
        values["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
        for key in ("attention_factor", "beta_fast", "beta_slow"):
            values[f"rope.scaling.yarn_{key.replace('attention', 'attn')}"] = rope.get(key)
    more_of = _OF_ARCHITECTURE.get(architecture)
    return {**values, **(more_of(config, rope) if more_of else {})}


def _phi3(config: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    positions = config["max_position_embeddings"]
    original = config.get("original_max_position_embeddings", positions)
    return {
        "rope.dimension_count": int(config["head_dim"] * config.get("partial_rotary_factor", 1.0)),
        "rope.scaling.original_context_length": original,
        "rope.scaling.attn_factor": math.sqrt(1 + math.log(positions / original) / math.log(original))
        if rope
        else None,
        "attention.sliding_window": config.get("sliding_window") or 0,
    }


def _gemma(config: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    return {
        "attention.sliding_window": config["sliding_window"],
        "rope.freq_base_swa": config.get("rope_local_base_freq"),
        **{key: config.get(key) for key in ("attn_logit_softcapping", "final_logit_softcapping")},
    }


#: What is written of a config and its rotation besides.
_OF_ARCHITECTURE: dict[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]] = {
    "exaone4": lambda config, rope: {"vocab_size": config["vocab_size"]} if config["sliding_window"] is None else {
        "attention.sliding_window": config["sliding_window"],
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in config["layer_types"]],
    },
    "gemma2": _gemma,
    "gemma3": _gemma,
    "glm4": lambda config, rope: {"rope.dimension_count": int(config["head_dim"] * config["partial_rotary_factor"])},
    "granite": lambda config, rope: {
        "attention.scale": config.get("attention_multiplier"), "embedding_scale": config.get("embedding_multiplier"),
        "residual_scale": config.get("residual_multiplier"), "logit_scale": config.get("logits_scaling"),
    },
    "hunyuan-dense": lambda config, rope: {
        "rope.scaling.type": "none", "rope.scaling.factor": 1.0, "rope.scaling.original_context_length": 262144,
    },
    "mistral3": lambda config, rope: {
        "rope.scaling.yarn_log_multiplier": rope["mscale_all_dim"],
        "attention.temperature_scale": rope["llama_4_scaling_beta"],
    },
    "phi3": _phi3,
}  # fmt: skip


def _converted(architecture: str, config: dict[str, Any], stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], config["num_hidden_layers"])
    converted = {}
    for name, tensor in stored.items():
        target, data = names.get_name(name, (".weight", ".bias")), tensor
        assert target is not None, name
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            data = tensor + np.float32(1)
        for part, heads in (("q_proj", config["num_attention_heads"]), ("k_proj", config["num_key_value_heads"])):
            if architecture in _LIKE_LLAMA and part in name:
                data = _permuted(data, heads)
        converted[target] = data
    return converted


def _permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def _fused(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    fused = {}
    for name, data in tensors.items():
        if ".attn_q." in name:
            parts = [tensors[name.replace(".attn_q.", f".attn_{part}.")] for part in "qkv"]
            fused[name.replace(".attn_q.", ".attn_qkv.")] = np.concatenate(parts)
        elif ".attn_k." not in name and ".attn_v." not in name:
            fused[name] = data
    return fused


def _rope_tensors(config: dict[str, Any]) -> dict[str, np.ndarray]:
    rope = config.get("rope_scaling") or {}
    if "short_factor" in rope:
        return {
            f"rope_factors_{kind}.weight": np.array(rope[f"{kind}_factor"], np.float32) for kind in ("long", "short")
        }
    return {"rope_freqs.weight": _llama3_factors(config)} if rope.get("rope_type") == "llama3" else {}


def _llama3_factors(config: dict[str, Any]) -> np.ndarray:
    """What transformers' llama3 scaling divides each frequency by, float32 [head_dim / 2]."""
    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    llama = LlamaConfig(**{**config, "model_type": "llama", "rope_scaling": dict(config["rope_scaling"])})
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](llama, torch.device("cpu"))
    plain = 1.0 / config["rope_theta"] ** (torch.arange(0, config["head_dim"], 2) / config["head_dim"])
    return np.asarray((plain / scaled).to(torch.float32).numpy())


def _tokenizer(size: int) -> dict[str, Any]:
    """A byte-level vocabulary with a token for each of `WORDS` after a space."""
    letters, pairs = sorted({letter for word in WORDS for letter in word} | {"\u0120"}), pairs_of_words("\u0120")
    tokens = ["<pad>", "<s>", "</s>", *letters, *pairs]
    values = {
        "model": "gpt2",
        "pre": "qwen2",
        "tokens": tokens + [f"[PAD{index}]" for index in range(len(tokens), size)],
        "token_type": [3] * 3 + [1] * (len(tokens) - 3) + [5] * (size - len(tokens)),
        "merges": [" ".join(pair) for pair in pairs.values()],
        **{"bos_token_id": 1, "eos_token_id": 2, "padding_token_id": 0, "add_bos_token": False},
    }
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


class GgufModel(WrittenModel):
    """A model folder, and the folder with the file that was written from it."""

    @property
    def file(self) -> Path:
        return self.folder / "model.gguf"
