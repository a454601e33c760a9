"""Reads the rotary position embedding of a GGUF file, in the keys of config.json."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from seap_export.errors import InputError
from seap_export.model.sources.gguf.file import GgufFile
from seap_export.model.sources.gguf.reader import ROPE_FACTORS

_FREQUENCIES, _SHORT, _LONG = ROPE_FACTORS
#: Possible original context lengths of models with llama3 scaling; a GGUF file does not store it.
_LLAMA3_CONTEXTS = (8192, 4096, 2048)


def rope_keys(file: GgufFile, head_dim: int) -> dict[str, Any]:
    """The keys of config.json that say how positions are rotated."""
    rotation = file.family.rotation
    rotated = file.whole("rope.dimension_count", head_dim)
    if rotated != head_dim and not rotation.partial:
        raise InputError(
            f"{file.path}: partial rotation is not supported for {file.form.architecture}; give another model"
        )
    theta = file.number("rope.freq_base", 10000.0)
    scaling = _scaling(file, theta, rotated)
    if rotation.query_scaling:
        scaling = {"rope_type": "default", "original_max_position_embeddings": _original(file), **(scaling or {})}
        scaling["llama_4_scaling_beta"] = file.number("attention.temperature_scale", 0.0)
    partial = {"partial_rotary_factor": rotated / head_dim} if rotation.partial else {}
    return {"rope_theta": theta, "rope_scaling": scaling, **partial}


def _scaling(file: GgufFile, theta: float, rotated: int) -> dict[str, Any] | None:
    factor = file.number("rope.scaling.factor", file.number("rope.scale_linear", 1.0)) or 1.0
    kind = file.get("rope.scaling.type", "linear")
    if any(name in file.tensors for name in ROPE_FACTORS) and factor != 1.0:
        raise InputError(
            f"{file.path}: factors of the rotary frequencies together with a rope scaling factor are not supported; "
            "give the Hugging Face folder"
        )
    if _SHORT in file.tensors and _LONG in file.tensors:
        return _longrope(file)
    if (scale := file.number("rope.scaling.attn_factor", 1.0)) != 1.0:
        raise InputError(
            f"{file.path}: 'rope.scaling.attn_factor' {scale:g} is not supported for rope scaling '{kind}'; "
            "give the Hugging Face folder"
        )
    if _FREQUENCIES in file.tensors:
        return _llama3(file, theta, rotated)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise InputError(
            f"{file.path}: rope scaling '{kind}' is not supported; supported: linear, yarn, llama3, and longrope with "
            "its factors; give another model"
        )
    return _yarn(file, factor)


def _original(file: GgufFile) -> int:
    """The model's context length before its extension by scaling."""
    return file.whole("rope.scaling.original_context_length", file.whole("context_length"))


def _yarn(file: GgufFile, factor: float) -> dict[str, Any]:
    if file.number("rope.scaling.yarn_ext_factor", 1.0) != 1.0:
        raise InputError(
            f"{file.path}: yarn with 'rope.scaling.yarn_ext_factor' other than 1 is not supported; give another file"
        )
    scaling: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": _original(file),
        "beta_fast": file.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": file.number("rope.scaling.yarn_beta_slow", 1.0),
    }
    if file.get("rope.scaling.yarn_attn_factor") is not None:
        scaling["attention_factor"] = file.number("rope.scaling.yarn_attn_factor", 1.0)
    if multiplier := file.number("rope.scaling.yarn_log_multiplier", 0.0):
        scaling |= {"mscale": 1.0, "mscale_all_dim": multiplier}
    return scaling


def _longrope(file: GgufFile) -> dict[str, Any]:
    """Factors of short and of long inputs, and the factor on both attention operands unless it is the usual one."""
    original = _original(file)
    extension = file.whole("context_length") / original
    usual = math.sqrt(1.0 + math.log(extension) / math.log(original)) if extension > 1.0 else 1.0
    scaling: dict[str, Any] = {"rope_type": "longrope", "original_max_position_embeddings": original}
    for key, name in (("short_factor", _SHORT), ("long_factor", _LONG)):
        scaling[key] = [float(str(factor)) for factor in file.read(name).reshape(-1)]
    stated = file.number("rope.scaling.attn_factor", 1.0)
    if not math.isclose(stated, usual, rel_tol=1e-6):
        scaling["attention_factor"] = stated
    return scaling


def _llama3(file: GgufFile, theta: float, rotated: int) -> dict[str, Any] | None:
    """Recovers the llama3 parameters from the factor that a GGUF file stores for each frequency."""
    stored = file.read(_FREQUENCIES).reshape(-1).astype(np.float64)
    if np.all(stored == 1.0):
        return None
    factor = float(str(np.float32(stored.max())))
    for original in _LLAMA3_CONTEXTS:
        factors = _llama3_factors(theta, rotated, factor, original)
        if factors.shape == stored.shape and np.allclose(factors, stored, rtol=1e-4, atol=0.0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            }
    raise InputError(
        f"{file.path}: the factors in '{_FREQUENCIES}' are not those of llama3 rope scaling, the only ones supported; "
        "give the Hugging Face folder"
    )


def _llama3_factors(theta: float, rotated: int, factor: float, original: int) -> np.ndarray:
    """The divisor of each frequency under llama3 scaling (low 1, high 4), [rotated / 2]."""
    wavelengths = 2 * math.pi * theta ** (np.arange(0, rotated, 2) / rotated)
    smooth = np.clip((original / wavelengths - 1.0) / (4.0 - 1.0), 0.0, 1.0)
    return 1.0 / ((1.0 - smooth) / factor + smooth)
