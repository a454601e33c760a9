"""Config values of micro models whose layers have other shapes, as pruning leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from seap_export.model.families import (
    Attention,
    Convolution,
    DeltaNet,
    Experts,
    Mamba,
    Mlp,
    SharedExpert,
    family_of_model_type,
    language_config,
    model_spec,
)
from seap_export.model.families.config_reader import class_settings
from seap_export.model.families.family import PRUNED_PREFIX
from support.variations import VARIATIONS, micro_config

#: Layers of shapes of their own, with biases from compensation.
PRUNED_LAYERS: dict[str, Any] = {
    "per_layer_config": {
        0: {"num_attention_heads": 3, "num_key_value_heads": 3, "intermediate_size": 41, "o_proj_bias": True},
        1: {"num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 1, "down_proj_bias": True},
    }
}
GRAPH_MODELS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {**PRUNED_LAYERS, "attention_bias": True, "mlp_bias": True}),
    ("mistral", {"sliding_window": 5}),
    ("qwen2", {**PRUNED_LAYERS, "tie_word_embeddings": True}),
]


def uneven_values(variation: str, *, biases: bool = True, **more: Any) -> dict[str, Any]:
    """Config values of one of the `VARIATIONS` in which each layer has other sizes.

    With biases, o_proj has one in the layers that were cut, and down_proj in one of them.
    """
    values = {**deepcopy(VARIATIONS[variation]), **more}
    family = family_of_model_type(values["model_type"])
    sizes = family.key("intermediate_size")
    groups = {6: (4, 2), 1: (1, 1)}.get(micro_config(**values).get("num_key_value_heads", 3), (2, 1))
    layers = {
        str(index): {family.key("num_attention_heads"): heads, "num_key_value_heads": kv_heads, sizes: neurons}
        for index, heads, kv_heads, neurons in ((1, 4, groups[0], 48), (2, 2, groups[1], 64))
    }
    if biases:
        layers["1"] |= {"o_proj_bias": True, "down_proj_bias": True}
        layers["2"] |= {"o_proj_bias": True}
    return {
        **_in_usual_keys(values),
        "model_type": PRUNED_PREFIX + family.model_type,
        "o_proj_bias": False,
        "down_proj_bias": False,
        "per_layer_config": _as_made(values, layers),
        **class_settings(family),
    }


def pruned_values(variation: str, **more: Any) -> dict[str, Any]:
    """As `PRUNED_LAYERS` says, by the family's own keys."""
    values = {**deepcopy(VARIATIONS[variation]), **more}
    family = family_of_model_type(values["model_type"])
    layers = {
        index: {key if key.endswith("_bias") else family.key(key): value for key, value in layer.items()}
        for index, layer in PRUNED_LAYERS["per_layer_config"].items()
    }
    if values.get("num_key_value_heads") == 1:
        layers = {index: {**layer, "num_key_value_heads": 1} for index, layer in layers.items()}
    return {
        **_in_usual_keys(values),
        **class_settings(family),
        "per_layer_config": _as_made(values, layers),
        "model_type": PRUNED_PREFIX + family.model_type,
    }


def _in_usual_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as the config of a source has them: without those that override others, or that it computed with."""
    family = family_of_model_type(values["model_type"])
    rule, usual = family.adjusted_size, {k: v for k, v in values.items() if k not in family.overrides.values()}
    shared = model_spec(micro_config(**values)).all(SharedExpert)  # whose size transformers' class is told
    usual |= {key: size for one in shared for key, size in one.sizes.items()}
    return usual if rule is None else {**usual, rule.switch: False}


def _as_made(values: Mapping[str, Any], layers: Mapping[Any, dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """The same with other sizes in layers that have a convolution or a gated delta net in place of attention.

    Those that have a mixture of experts in place of an MLP lack one expert, and have no bias there.
    """
    config = micro_config(**values)
    spec, made = model_spec(config), {}
    if family_of_model_type(values["model_type"]).global_layers is not None:  # whose heads have another size
        cut = {str(index): sizes for index, sizes in layers.items()}
        of_dense = language_config(config)["per_layer_config"]
        layers = {index: {**of_dense.get(index, {}), **cut.get(index, {})} for index in {**of_dense, **cut}}
    for index, sizes in layers.items():
        made[index] = dict(sizes)
        kinds = {type(sublayer) for sublayer in spec.layers[int(index)].sublayers}
        attention = [one for one in spec.layers[int(index)].sublayers if isinstance(one, Attention)]
        if any(one.fixed_groups for one in attention):
            groups = spec.layers[int(index)][Attention].num_key_value_heads  # which are those of several layers
            made[index] |= {"num_attention_heads": groups, "num_key_value_heads": groups}
        if Mamba in kinds or any(one.whole_because for one in attention):  # which stay whole
            del made[index]["num_attention_heads"], made[index]["num_key_value_heads"]
            made[index].pop("o_proj_bias", None)
        elif kinds & {Convolution, DeltaNet}:
            heads, groups = (made[index].pop(key) for key in ("num_attention_heads", "num_key_value_heads"))
            if Convolution in kinds:
                made[index]["conv_dim"] = 8 * heads + 1
            else:
                made[index] |= {"linear_num_value_heads": heads, "linear_num_key_heads": groups}
            if "o_proj_bias" in sizes:
                output = spec.layers[int(index)].outputs[0]
                made[index][f"{output}_bias"] = made[index].pop("o_proj_bias")
        for experts in (one for one in spec.layers[int(index)].sublayers if isinstance(one, Experts)):
            if Mlp not in kinds:
                del made[index][spec.family.key("intermediate_size")]
                made[index].pop("down_proj_bias", None)
            made[index][spec.family.key("num_experts")] = experts.num_experts - 1
    return made
