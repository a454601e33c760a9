"""Model folders whose config or weights describe another block than the graph's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from planted.fault import ANY, Change, Fault, Layer, quiet
from planted.folders.model import config, tensors
from support.editing import edit_json

Tensors = dict[str, torch.Tensor]
_EITHER = (3, 7)
_LAYER = "model.layers.1."


def _rope(**values: Any) -> Change:
    """Other parameters of the rotation."""

    def change(config: dict[str, Any]) -> None:
        key = "rope_parameters" if "rope_parameters" in config else "rope_scaling"
        config[key] = {**config[key], **values}

    return lambda artifact: edit_json(artifact.hf / "config.json", change)


def _without(*keys: str) -> Change:
    """Keys are missing, so that transformers takes its defaults."""

    def change(config: dict[str, Any]) -> None:
        for key in keys:
            del config[key]

    return lambda artifact: edit_json(artifact.hf / "config.json", change)


def _swap(one: str, other: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        one_name, other_name = (f"{_LAYER}{name}.weight" for name in (one, other))
        tensors[one_name], tensors[other_name] = tensors[other_name], tensors[one_name]

    return change


def _roll(name: str, rows: int) -> Callable[[Tensors], None]:
    """The parts of a fused projection in another order."""

    def change(tensors: Tensors) -> None:
        tensors[f"{_LAYER}{name}.weight"] = tensors[f"{_LAYER}{name}.weight"].roll(rows, 0)

    return change


def _halves(name: str) -> Callable[[Tensors], None]:
    """The two halves of a fused projection exchanged."""
    return lambda tensors: _roll(name, len(tensors[f"{_LAYER}{name}.weight"]) // 2)(tensors)


def offset_twice(tensors: Tensors) -> None:
    """Gains of the plain form where the family stores them without 1."""
    for name in tensors:
        if "norm" in name:
            tensors[name] = tensors[name] + 1


def _pairs(tensors: Tensors) -> None:
    """Queries whose rotated channels are in the order of halves and not of pairs."""
    name = f"{_LAYER}self_attn.q_proj.weight"
    heads = tensors[name].unflatten(0, (-1, 16))
    order = [0, 2, 4, 6, 1, 3, 5, 7, *range(8, 16)]
    tensors[name] = heads[:, order].flatten(0, 1)


def _of_config() -> Iterator[Fault]:
    sliding, full = "sliding_attention", "full_attention"
    faults: list[tuple[str, str, Change, Layer]] = [
        ("soft cap of logits", "gemma3", config(final_logit_softcapping=8.5), None),
        ("no soft cap of logits", "gemma3", config(final_logit_softcapping=None), None),
        ("soft cap of scores", "gemma2", config(attn_logit_softcapping=2.2), 0),
        ("no soft cap of scores", "gemma2 standard", config(attn_logit_softcapping=None), 0),
        ("scale of scores", "gemma3", config(query_pre_attn_scalar=16), 0),
        ("base of local rotations", "gemma3", config(rope_local_base_freq=10000.0), 1),
        ("factor of global rotations", "gemma3", _rope(factor=2.0), 0),
        ("a longer window", "gemma2", config(sliding_window=6), 0),
        ("windows in other layers", "gemma2 standard", config(layer_types=[sliding, sliding, full]), 1),
        ("windows and rotation in other layers", "exaone4", config(layer_types=[sliding, sliding, full]), 1),
        ("windows and local rotation in other layers", "gemma3", config(layer_types=[full, full, sliding]), 1),
        ("no windows", "smollm3", config(use_sliding_window=False, layer_types=[full] * 3), 0),
        ("rotation in other layers", "smollm3", config(no_rope_layers=[1, 1, 0]), 1),
        ("layers without rotation by default", "smollm3", _without("no_rope_layers"), 1),
        ("embedding multiplier", "granite", config(embedding_multiplier=3.1), None),
        ("residual multiplier", "granite", config(residual_multiplier=0.5), 0),
        ("no residual multiplier", "granite", _without("residual_multiplier"), 0),
        ("logits multiplier", "granite", config(logits_scaling=2.1), None),
        ("attention multiplier", "granite", config(attention_multiplier=0.25), 0),
        ("factors of short inputs", "phi3", _rope(short_factor=[1.2, 1.1, 1.2, 1.3, 1.4, 1.5]), 0),
        ("factors of long inputs", "phi3", _rope(long_factor=[1.2, 2.0, 3.0, 4.0, 6.0, 8.0]), 0),
        ("longrope's switch", "phi3", config(original_max_position_embeddings=18), 0),
        # What was rounded is compared with hf as it is, whatever both compute.
        ("a smaller part of heads", "glm4", config(partial_rotary_factor=0.25), ANY),
        ("alpha", "hunyuan", _rope(alpha=900.0), 0),
        ("no alpha", "hunyuan", config(rope_scaling=None), 0),
        ("beta of scaled queries", "ministral3", _rope(llama_4_scaling_beta=0.6), 0),
        ("context of scaled queries", "ministral3", _rope(original_max_position_embeddings=9), 0),
    ]
    for name, base, change, layer in faults:
        yield quiet(f"config: {name}", base, change, codes=_EITHER, layer=layer)
    for name, base, change in (
        ("exact gelu", "gemma3", config(hidden_activation="gelu")),
        ("silu instead of gelu", "gemma2", config(hidden_activation="silu")),
        ("gelu instead of silu", "phi3", config(hidden_act="gelu_pytorch_tanh")),
        ("fewer factors of longrope", "phi3", config(partial_rotary_factor=0.5)),
        ("another family", "gemma2", config(model_type="seap_gemma3_text")),
        ("a key that is not known", "granite", config(residual_dropout_scale=0.5)),
    ):
        yield quiet(f"config: {name}", base, change, codes=_EITHER, layer=ANY)


def _of_weights() -> Iterator[Fault]:
    behind, before, heads = "post_attention_layernorm", "pre_feedforward_layernorm", "self_attn."
    faults: list[tuple[str, str, Callable[[Tensors], None], Layer]] = [
        ("offset of norms twice", "gemma3", offset_twice, 0),
        ("norms of the wrong sublayers", "gemma3", _swap(behind, "post_feedforward_layernorm"), 1),
        ("norms before and after exchanged", "gemma2 standard", _swap(behind, before), 1),
        ("norms of the wrong sublayers, int4", "glm4", _swap("post_self_attn_layernorm", "post_mlp_layernorm"), 1),
        ("norms of queries and keys swapped", "hunyuan", _swap(f"{heads}query_layernorm", f"{heads}key_layernorm"), 1),
        ("values before queries and keys", "phi3", _roll("self_attn.qkv_proj", 48), 1),
        ("up before gate", "phi3", _halves("mlp.gate_up_proj"), 1),
        ("up before gate, int4", "glm4", _halves("mlp.gate_up_proj"), 1),
        ("queries in the order of halves", "glm4", _pairs, 1),
    ]
    for name, base, change, layer in faults:
        yield quiet(f"weights: {name}", base, tensors(change), codes=(3,), layer=layer)


FAULTS: tuple[Fault, ...] = (*_of_config(), *_of_weights())
