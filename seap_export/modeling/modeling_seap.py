"""Pruned decoder models. This file is copied into every artifact and imports nothing from seap_export.

Each class is its family's transformers class with layers of different shapes. Every decoder layer is a stock layer
built from that layer's config, so attention backends, caches and generation are those of transformers.
"""

import copy

from torch import nn
from transformers import (
    LlamaForCausalLM,
    LlamaModel,
    MistralForCausalLM,
    MistralModel,
    PretrainedConfig,
    Qwen2ForCausalLM,
    Qwen2Model,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from .configuration_seap import SeapLlamaConfig, SeapMistralConfig, SeapQwen2Config, SeapQwen3Config, layer_config

__all__ = ["SeapLlamaForCausalLM", "SeapMistralForCausalLM", "SeapQwen2ForCausalLM", "SeapQwen3ForCausalLM"]


def _with_bias(linear: nn.Linear, bias: bool) -> nn.Linear:
    """The projection itself, or a copy of its shape with a bias; a family enables the biases of several at once."""
    if not bias or linear.bias is not None:
        return linear
    return nn.Linear(linear.in_features, linear.out_features, bias=True)


def _build_layer(layer_class: type[nn.Module], config: PretrainedConfig, layer_idx: int) -> nn.Module:
    own = layer_config(config, layer_idx)
    layer = layer_class(own, layer_idx)
    layer.self_attn.o_proj = _with_bias(layer.self_attn.o_proj, own.o_proj_bias)
    layer.mlp.down_proj = _with_bias(layer.mlp.down_proj, own.down_proj_bias)
    layer.self_attn.config = config  # at each call, the attention backend is chosen from the model's config
    return layer


def _one_layer(config: PretrainedConfig) -> PretrainedConfig:
    """A config from which a stock constructor builds everything around the layers, and a single stock layer."""
    single = copy.copy(layer_config(config, 0))
    single.num_hidden_layers = 1
    return single


class _PrunedModel:
    """Mixin for a family's base model: replaces its layers by those of the config."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(_one_layer(config))
        layer_class = type(self.layers[0])
        config._attn_implementation = self.config._attn_implementation
        self.config = config
        self.layers = nn.ModuleList(
            [_build_layer(layer_class, config, layer_idx) for layer_idx in range(config.num_hidden_layers)]
        )
        self.post_init()


class _PrunedForCausalLM:
    """Mixin for a family's causal language model: replaces its base model by the pruned one."""

    pruned_model: type[nn.Module]

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(_one_layer(config))
        config._attn_implementation = self.config._attn_implementation
        self.config = config
        self.model = self.pruned_model(config)
        self.post_init()


class SeapLlamaModel(_PrunedModel, LlamaModel):
    config_class = SeapLlamaConfig


class SeapLlamaForCausalLM(_PrunedForCausalLM, LlamaForCausalLM):
    config_class = SeapLlamaConfig
    pruned_model = SeapLlamaModel


class SeapMistralModel(_PrunedModel, MistralModel):
    config_class = SeapMistralConfig


class SeapMistralForCausalLM(_PrunedForCausalLM, MistralForCausalLM):
    config_class = SeapMistralConfig
    pruned_model = SeapMistralModel


class SeapQwen2Model(_PrunedModel, Qwen2Model):
    config_class = SeapQwen2Config


class SeapQwen2ForCausalLM(_PrunedForCausalLM, Qwen2ForCausalLM):
    config_class = SeapQwen2Config
    pruned_model = SeapQwen2Model


class SeapQwen3Model(_PrunedModel, Qwen3Model):
    config_class = SeapQwen3Config


class SeapQwen3ForCausalLM(_PrunedForCausalLM, Qwen3ForCausalLM):
    config_class = SeapQwen3Config
    pruned_model = SeapQwen3Model
