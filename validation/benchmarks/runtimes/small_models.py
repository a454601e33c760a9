"""Small models of every family with random weights, dense and with layers of different shapes.

A model has the features that its family has in transformers' own configuration, such as windows and soft caps. The
pruned one has the layers that an export gives: other numbers of heads and neurons, and biases of compensation.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from seap_export.families import Attention, ModelSpec, family_of_model_type, model_spec
from seap_export.shrink.config import shrunk_config
from seap_export.sources.source import open_source
from seap_export.sources.stored import StoredForm
from seap_export.sources.tensor_writer import SafetensorsWriter
from validation.benchmarks.random_model import write_byte_tokenizer

__all__ = ["KINDS", "Kind", "write_small_model"]

Kind = Literal["dense", "pruned"]
KINDS: tuple[Kind, ...] = ("dense", "pruned")
_SIZES = {
    "vocab_size": 288,
    "hidden_size": 256,
    "head_dim": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "dtype": "float32",
}
#: Heads, KV heads and neurons of the pruned model's layers after the first.
_PRUNED = ((6, 3, 192), (4, 2, 160))
#: Short enough that it hides something from the longest prompt.
_WINDOW = 16
_LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
_WITHOUT_GROUPS = ("biogpt", "gpt2", "gpt_neox", "opt")
#: Where transformers' defaults are those of one large model.
_OF_FAMILY: Mapping[str, Mapping[str, Any]] = {
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_state": 16, "mamba_expand": 1},
    "exaone4": {"layer_types": _LAYER_TYPES},
    "gemma3_text": {"layer_types": _LAYER_TYPES},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
    "qwen3_5_text": {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_value_heads": 8,
        "linear_num_key_heads": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
    },
    "mistral": {"sliding_window": None},  # as the later Mistral models have it
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 4, "tie_word_embeddings": False},
    **{name: {"num_key_value_heads": 8} for name in _WITHOUT_GROUPS},
    "codegen": {"num_key_value_heads": 8, "rotary_dim": 16},
    "gptj": {"num_key_value_heads": 8, "rotary_dim": 16},
    "gpt_bigcode": {"num_key_value_heads": 1},
    "gpt_neo": {
        "num_key_value_heads": 8,
        "attention_types": [[["global", "local", "global"], 1]],
        "window_size": _WINDOW,
    },
    "granitemoehybrid": {"shared_intermediate_size": 256, "num_local_experts": 0, "layer_types": ["attention"] * 3},
}
#: A tokenizer without any is not one that GGUF files can hold.
_MERGES = (("t", "h"), ("th", "e"), ("a", "n"))
#: Large enough that attention matters, and that logits differ by some units.
_SPREAD, _EMBEDDING_SPREAD = 0.1, 0.5


def write_small_model(folder: Path, model_type: str, kind: Kind, seed: int = 0) -> None:
    """Writes config.json, the weights in float32 and a tokenizer whose tokens are bytes and a few pairs.

    Args:
        folder: The folder, which is made if need be.
        model_type: The family.
        kind: Which of its two models.
        seed: The same seed gives the same files.
    """
    if kind == "dense":
        _write_model(folder, _dense_config(model_type), seed)
        return
    with tempfile.TemporaryDirectory() as temporary:
        write_small_model(Path(temporary), model_type, "dense", seed)
        source = open_source(temporary)
        _write_model(folder, shrunk_config(source, _pruned_spec(source.spec), "per-layer"), seed)


def _write_model(folder: Path, config: dict[str, Any], seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_byte_tokenizer(folder, _MERGES)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8", newline="\n")
    spec = model_spec(config)
    generator = torch.Generator().manual_seed(seed)
    multiplier = spec.block.embedding_multiplier
    plain = {name: _random(name, shape, multiplier, generator) for name, shape in spec.tensors().items()}
    stored = StoredForm(spec).to_stored(plain)
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    with SafetensorsWriter(folder / "model.safetensors", shapes, torch.float32) as writer:
        for name in shapes:
            writer.write(name, stored[name])


def _dense_config(model_type: str) -> dict[str, Any]:
    from transformers import AutoConfig

    family = family_of_model_type(model_type)
    sizes = {**_SIZES, **_OF_FAMILY.get(model_type, {})}
    if family.rotation.layers == "none":
        sizes = {key: value for key, value in sizes.items() if not key.startswith("rope")}
    if family.head_dim_is_derived:
        del sizes["head_dim"]
    stored = {family.key(key): value for key, value in sizes.items() if family.key(key) not in sizes}
    config = AutoConfig.for_model(model_type, **{**sizes, **stored}).to_dict()
    config.pop("time_step_limit", None)  # of Mamba's layers, up to infinity, which JSON does not have
    if config.get("sliding_window"):
        config["sliding_window"] = _WINDOW
    return {**config, "architectures": [family.architecture], "dtype": "float32"}


def _pruned_spec(dense: ModelSpec) -> ModelSpec:
    """The shapes that an export may leave."""
    first, *others = dense.layers
    attention = dense.first(Attention)
    shrunk = [
        layer.changed(
            **_heads(attention, heads, kv_heads),
            conv_dim=32 * heads,
            linear_num_value_heads=heads,
            linear_num_key_heads=kv_heads,
            intermediate_size=neurons,
            moe_intermediate_size=32 * heads,
            biases=layer.biases | set(layer.outputs),
        )
        for layer, (heads, kv_heads, neurons) in zip(others, _PRUNED, strict=True)
    ]
    return dense.with_layers((first, *shrunk))


def _heads(attention: Attention, heads: int, kv_heads: int) -> dict[str, int]:
    """Those that may be left where a model with groups has so many."""
    if attention.whole_because:
        heads, kv_heads = attention.num_attention_heads, attention.num_key_value_heads
    elif attention.num_key_value_heads == 1:
        kv_heads = 1
    elif attention.heads_per_group == 1:
        kv_heads = heads
    return {"num_attention_heads": heads, "num_key_value_heads": kv_heads}


def _random(name: str, shape: tuple[int, ...], multiplier: float, generator: torch.Generator) -> torch.Tensor:
    """Embeddings are smaller by their multiplier, or a token would predict itself whatever the layers do."""
    centre = 1.0 if "norm" in name else 0.0
    spread = _EMBEDDING_SPREAD / multiplier if "embed" in name else _SPREAD
    return centre + spread * torch.randn(shape, generator=generator)
