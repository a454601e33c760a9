"""Configurations of pruned models. This file is copied into every artifact and imports nothing from seap_export.

A pruned model's config.json is that of its family plus `per_layer_config`. For each layer that differs, it holds
`num_attention_heads`, `num_key_value_heads` and `intermediate_size`, and whether compensation added a bias to `o_proj`
and `down_proj`. transformers 5.14 and later support `per_layer_config`; for earlier releases it is a plain dictionary.
`layer_config` resolves both.
"""

import copy
from dataclasses import is_dataclass

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config, Qwen3Config

__all__ = ["SeapLlamaConfig", "SeapMistralConfig", "SeapQwen2Config", "SeapQwen3Config", "layer_config"]


def layer_config(config: PretrainedConfig, layer_idx: int) -> PretrainedConfig:
    """The config of one layer: a copy with the head and neuron counts of that layer."""
    per_layer = getattr(config, "per_layer_config", None)
    if per_layer is not None and not isinstance(per_layer, dict):
        return per_layer[layer_idx]
    resolved = copy.copy(config)
    for index, overrides in (per_layer or {}).items():
        if int(index) == layer_idx:
            for name, value in overrides.items():
                setattr(resolved, name, value)
    return resolved


class _PrunedConfig:
    """Mixin for the config of a family: the compensation biases, and a check of each layer's shape."""

    o_proj_bias: bool = False
    down_proj_bias: bool = False

    def validate_architecture(self) -> None:
        """Rejects a layer whose query heads cannot share its key/value heads evenly (called by transformers 5)."""
        for layer_idx in range(self.num_hidden_layers):
            layer = layer_config(self, layer_idx)
            if layer.num_attention_heads % layer.num_key_value_heads:
                raise ValueError(
                    f"layer {layer_idx}: {layer.num_attention_heads} query heads are not a multiple of "
                    f"{layer.num_key_value_heads} key/value heads"
                )


def _validated(config_class: type) -> type:
    """Wraps a config of transformers 5 in `strict`; without it, the checks of these dataclasses are not inherited."""
    return strict(config_class) if is_dataclass(config_class) else config_class


@_validated
class SeapLlamaConfig(_PrunedConfig, LlamaConfig):
    model_type = "seap_llama"


@_validated
class SeapMistralConfig(_PrunedConfig, MistralConfig):
    model_type = "seap_mistral"


@_validated
class SeapQwen2Config(_PrunedConfig, Qwen2Config):
    model_type = "seap_qwen2"


@_validated
class SeapQwen3Config(_PrunedConfig, Qwen3Config):
    model_type = "seap_qwen3"
