"""Builds a config.json from the metadata of a GGUF file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from seap_export.errors import InputError
from seap_export.sources.gguf_file import GgufFile
from seap_export.sources.gguf_reader import GGUF_PROJECTIONS, ROPE_FACTORS, GgufReader

__all__ = ["gguf_config"]

#: Possible original context lengths of models with llama3 scaling; a GGUF file does not store it.
_LLAMA3_CONTEXTS = (8192, 4096, 2048)


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """Builds the config.json of a GGUF file, in the spelling that transformers 4.57 and 5 share.

    Raises:
        InputError: Metadata are missing, differ between layers, or describe an unsupported model.
    """
    family = file.family
    _refuse_unsupported(file)
    if "token_embd.weight" not in file.tensors:
        raise InputError(f"{file.path}: no token embedding; give the GGUF file of a whole language model")
    vocab_size = file.tensors["token_embd.weight"].shape[0]
    hidden_size, heads = file.whole("embedding_length"), file.whole("attention.head_count")
    head_dim = file.whole("attention.key_length", hidden_size // heads)
    theta = _number(file, "rope.freq_base", 10000.0)
    if {file.whole(key, head_dim) for key in ("rope.dimension_count", "attention.value_length")} != {head_dim}:
        raise InputError(f"{file.path}: partial rotation and values of another width than keys are not supported")
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": file.whole("feed_forward_length"),
        "num_hidden_layers": file.whole("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.whole("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": file.whole("context_length"),
        "rms_norm_eps": _number(file, "attention.layer_norm_rms_epsilon", 1e-6),
        "rope_theta": theta,
        "rope_scaling": _rope_scaling(file, theta, head_dim),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "hidden_act": "silu",
        **_bias_switches(file),
        **_special_ids(file),
        "dtype": str(GgufReader(file).dtype).removeprefix("torch."),
    }


def _number(file: GgufFile, key: str, default: float) -> float:
    """A number as the shortest decimal with the same float32 value: 1e-05 for 9.999999747378752e-06."""
    value = file.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{file.path}: metadata '{key}' must be a number, not {value!r}")
    return float(str(np.float32(value)))


def _refuse_unsupported(file: GgufFile) -> None:
    if file.get("expert_count"):
        raise InputError(f"{file.path}: mixtures of experts are not supported; give a dense model")
    if file.get("attention.sliding_window") and file.family.window is None:
        raise InputError(
            f"{file.path}: sliding-window attention is not supported in a GGUF file; give the Hugging Face folder"
        )


def _bias_switches(file: GgufFile) -> dict[str, bool]:
    """The config keys that enable biases, derived from the tensors in the file."""
    present = {name.split(".")[-2] for name in file.tensors if name.startswith("blk.") and name.endswith(".bias")}
    switches: dict[str, bool] = {}
    for part, projection in GGUF_PROJECTIONS.items():
        key = file.family.biases.get(projection)
        if isinstance(key, str):
            switches[key] = switches.get(key, False) or part in present
    return switches


def _special_ids(file: GgufFile) -> dict[str, int | None]:
    keys = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    return {key: file.metadata.get(f"tokenizer.ggml.{source}") for key, source in keys.items()}


def _rope_scaling(file: GgufFile, theta: float, head_dim: int) -> dict[str, Any] | None:
    factor = _number(file, "rope.scaling.factor", _number(file, "rope.scale_linear", 1.0)) or 1.0
    kind = file.get("rope.scaling.type", "linear")
    if ROPE_FACTORS in file.tensors:
        if factor != 1.0:
            raise InputError(
                f"{file.path}: '{ROPE_FACTORS}' together with a rope scaling factor is not supported; "
                "give the Hugging Face folder"
            )
        return _llama3_scaling(file, theta, head_dim)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise InputError(f"{file.path}: rope scaling '{kind}' is not supported; supported: linear, yarn, llama3")
    return _yarn_scaling(file, factor)


def _yarn_scaling(file: GgufFile, factor: float) -> dict[str, Any]:
    usual = {"attn_factor": 1.0, "yarn_attn_factor": 1.0, "yarn_ext_factor": 1.0, "yarn_log_multiplier": 0.0}
    for key, value in usual.items():
        if _number(file, f"rope.scaling.{key}", value) != value:
            raise InputError(f"{file.path}: yarn with 'rope.scaling.{key}' other than {value} is not supported")
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": file.whole(
            "rope.scaling.original_context_length", file.whole("context_length")
        ),
        "beta_fast": _number(file, "rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": _number(file, "rope.scaling.yarn_beta_slow", 1.0),
    }


def _llama3_scaling(file: GgufFile, theta: float, head_dim: int) -> dict[str, Any] | None:
    """Recovers the llama3 parameters from the factor that a GGUF file stores for each frequency."""
    stored = file.read(ROPE_FACTORS).reshape(-1).astype(np.float64)
    if np.all(stored == 1.0):
        return None
    factor = float(str(np.float32(stored.max())))
    for original in _LLAMA3_CONTEXTS:
        factors = _llama3_factors(theta, head_dim, factor, original)
        if factors.shape == stored.shape and np.allclose(factors, stored, rtol=1e-4, atol=0.0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            }
    raise InputError(
        f"{file.path}: the factors in '{ROPE_FACTORS}' are not those of llama3 rope scaling, the only ones supported; "
        "give the Hugging Face folder"
    )


def _llama3_factors(theta: float, head_dim: int, factor: float, original: int) -> np.ndarray:
    """The divisor of each frequency under llama3 scaling (low 1, high 4), [head_dim / 2]."""
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((original / wavelengths - 1.0) / (4.0 - 1.0), 0.0, 1.0)
    return 1.0 / ((1.0 - smooth) / factor + smooth)
