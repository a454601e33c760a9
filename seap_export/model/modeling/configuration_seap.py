"""Configurations of pruned models. This file is copied into every artifact and imports nothing from seap_export.

`SeapXConfig` is made on demand, of the config class of transformers' `XForCausalLM`. A pruned model's config.json is
that of its family plus `per_layer_config`. For each layer that differs, it holds the numbers of query heads, key/value
heads, neurons, experts and channels of a convolution, and whether compensation added a bias to an output projection.
transformers 5.14 and later support `per_layer_config`; for earlier releases it is a plain dictionary. `layer_config`
resolves both.
"""

import copy
import re
from dataclasses import is_dataclass
from functools import cache

import transformers
from huggingface_hub.dataclasses import strict
from transformers import PretrainedConfig

__all__ = ["config_class", "key_value_heads", "layer_config", "stock_class"]


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


def key_value_heads(layer: PretrainedConfig) -> int:
    """The number of key/value heads of a layer with this config: that of query heads where the config has no other."""
    return getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads


def stock_class(stem: str) -> type:
    """transformers' class of the dense models: `LlamaForCausalLM` for "Llama", and `GPT2LMHeadModel` for "GPT2".

    Raises:
        AttributeError: The installed release has no such class.
    """
    for name in (f"{stem}ForCausalLM", f"{stem}LMHeadModel"):
        if hasattr(transformers, name):
            return getattr(transformers, name)
    raise AttributeError(f"transformers {transformers.__version__} has no {stem}ForCausalLM; install a newer release")


class _PrunedConfig:
    """Mixin for the config of a family: what its layers may have, and a check of each layer's shape."""

    o_proj_bias: bool = False
    down_proj_bias: bool = False
    out_proj_bias: bool = False
    delta_out_proj_bias: bool = False
    mamba_out_proj_bias: bool = False
    o_proj_path: str = "self_attn.o_proj"
    down_proj_path: str = "mlp.down_proj"
    out_proj_path: str = "conv.out_proj"
    delta_out_proj_path: str = "linear_attn.out_proj"
    mamba_out_proj_path: str = "mamba.out_proj"
    layers_path: str = "model.layers"
    conv_dim: int | None = None
    shared_path: str | None = None
    shared_expert_intermediate_size: int | None = None
    resized_attention: bool = False

    def validate_architecture(self) -> None:
        """Rejects a layer whose query heads cannot share its key/value heads evenly (called by transformers 5)."""
        for layer_idx in range(self.num_hidden_layers):
            layer = layer_config(self, layer_idx)
            heads, groups = layer.num_attention_heads, key_value_heads(layer)
            if heads % groups:
                raise ValueError(
                    f"layer {layer_idx}: {heads} query heads are not a multiple of {groups} key/value heads"
                )

    def validate_rope(self) -> None:
        """Accepts what the dense model had: transformers' own check may take the size of a head from head counts."""


@cache
def config_class(stem: str) -> type:
    """The config class of pruned models: `SeapLlamaConfig` for "Llama".

    Raises:
        AttributeError: The installed release of transformers has no such class.
    """
    stock = stock_class(stem).config_class
    members = {"__module__": __name__, "model_type": f"seap_{stock.model_type}"}
    if isinstance(getattr(stock, "head_dim", None), property):
        members["head_dim"] = None  # made of the number of heads, of which a layer may have fewer
    made = type(f"Seap{stem}Config", (_PrunedConfig, stock), members)
    # Without `strict`, the checks of the dataclasses that configs are in transformers 5 are not inherited.
    return strict(made) if is_dataclass(made) else made


def __getattr__(name: str) -> type:
    match = re.fullmatch("Seap(.+)Config", name)
    if match is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return config_class(match[1])
