"""The genai_config.json that ONNX Runtime GenAI reads next to model.onnx."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converters.onnx.form import OnnxForm
from converters.onnx.onnx_writer import MODEL_FILE
from converters.onnx.precision import INTEGERS
from seap_export.common.providers import EXACT_INTEGERS, PROVIDERS
from seap_export.errors import InputError
from seap_export.model.families import Attention, Convolution, LayerSpec, ModelSpec

GENAI_CONFIG = "genai_config.json"
_DEFAULT = OnnxForm()
#: The families that GenAI knows, or that it runs as one that it knows; others are plain decoders.
_TYPES: Mapping[str, str] = {
    **{name: name for name in (
        "ernie4_5", "gemma", "gemma2", "gemma3_text", "gemma4_text", "granite", "lfm2", "llama", "mistral", "nemotron",
        "olmo", "phi", "phi3", "qwen2", "qwen3", "qwen3_5_moe_text", "qwen3_5_text", "smollm3",
    )},
    "gemma4_unified_text": "gemma4_text",
    "granitemoehybrid": "granite",
    "hunyuan_v1_dense": "hunyuandensev1",
    "lfm2_moe": "lfm2",
    "qwen3_next": "qwen3_5_moe_text",
}  # fmt: skip
#: Search options that a generation_config.json may set, with their defaults.
_SEARCH_DEFAULTS: Mapping[str, Any] = {
    "diversity_penalty": 0.0,
    "do_sample": False,
    "length_penalty": 1.0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
}


def genai_config(
    spec: ModelSpec,
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any] | None,
    form: OnnxForm = _DEFAULT,
) -> dict[str, Any]:
    """Describes a model written by `write_onnx` for ONNX Runtime GenAI (0.15 or later).

    Head counts are the largest of any layer. They are only defaults, because GenAI reads the head count of each layer
    from the static dimensions of the graph's inputs. A sliding window is left out: attention applies it to a cache of
    full length, whereas GenAI's setting is for caches as short as the window.
    """
    generation = {key: value for key, value in (generation_config or {}).items() if value is not None}
    return {
        "model": {
            **_special_tokens(config, generation),
            "context_length": spec.max_position_embeddings,
            "decoder": _decoder(spec, form),
            "type": _TYPES.get(spec.family.model_type, "decoder"),
            "vocab_size": spec.vocab_size,
        },
        "search": {
            **{key: generation.get(key, default) for key, default in _SEARCH_DEFAULTS.items()},
            "early_stopping": True,
            "max_length": spec.max_position_embeddings,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": form.dialect == "fused",
        },
    }


def _decoder(spec: ModelSpec, form: OnnxForm) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "session_options": {
            "log_id": "onnxruntime-genai",
            "provider_options": _provider_options(form),
            **(EXACT_INTEGERS if form.precision.name in INTEGERS else {}),
        },
        "filename": MODEL_FILE,
        "head_size": spec.head_dim,
        "hidden_size": spec.hidden_size,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "num_attention_heads": max(attention.num_attention_heads for attention in spec.all(Attention)),
        "num_hidden_layers": len(spec.layers),
        "num_key_value_heads": max(attention.num_key_value_heads for attention in spec.all(Attention)),
    }
    others = {name: one for one in spec.sublayers for name in one.states if name not in ("key", "value")}
    # Where a layer has no states, it would look for its inputs.
    if others and all(any(sublayer.states for sublayer in layer.sublayers) for layer in spec.layers):
        settings["layer_types"] = [_layer_type(layer) for layer in spec.layers]
    for name in others:
        settings["inputs"][f"past_{name}_names"] = f"past.%d.{name}"
        settings["outputs"][f"present_{name}_names"] = f"present.%d.{name}"
    for convolution in spec.all(Convolution):
        settings["conv_cache_size"] = convolution.kernel_size - 1
    return settings


def _layer_type(layer: LayerSpec) -> str:
    """GenAI's word for a layer, by the states that it keeps."""
    states = {state for sublayer in layer.sublayers for state in sublayer.states}
    words = {"key": "full_attention", "recurrent": "linear_attention", "conv": "conv"}
    return next(word for state, word in words.items() if state in states)


def _provider_options(form: OnnxForm) -> list[dict[str, dict[str, str]]]:
    options = PROVIDERS[form.provider].genai_options
    return [] if options is None else [{form.provider: dict(options)}]


def _special_tokens(config: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """EOS (one or many), padding and BOS; GenAI needs all three, so the last two default to the first EOS."""

    def token(name: str) -> Any:
        return generation[name] if name in generation else config.get(name)

    eos = token("eos_token_id")
    if eos is None or eos == []:
        raise InputError("config.json and generation_config.json have no eos_token_id; add one for ONNX Runtime GenAI")
    first = eos[0] if isinstance(eos, list) else eos
    bos, pad = (first if token(name) is None else token(name) for name in ("bos_token_id", "pad_token_id"))
    return {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
