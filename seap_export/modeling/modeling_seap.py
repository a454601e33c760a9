"""Pruned decoder models. This file is copied into every artifact and imports nothing from seap_export.

`SeapXForCausalLM` is made on demand: transformers' `XForCausalLM` with layers of different shapes. Every decoder
layer is a stock layer built from that layer's config, so attention backends, caches and generation are those of
transformers. `SeapXModel` is the same without the LM head, which servers such as vLLM have their own of.
"""

import copy
import re
from functools import cache
from typing import Any

import transformers
from torch import nn
from transformers import PretrainedConfig

from .configuration_seap import config_class, layer_config, stock_class


class _LayerConfig:
    """The config that the modules of one layer see.

    Sizes are those of the layer. Names that begin with an underscore, such as that of the attention backend, change
    after the model is made, so they are looked up in the model's config.
    """

    def __init__(self, model: PretrainedConfig, layer: PretrainedConfig) -> None:
        self._of_model, self._of_layer = model, layer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # asked for by copy and pickle before there is anything to look up
        return getattr(self._of_model if name.startswith("_") else self._of_layer, name)


def _add_bias(layer: nn.Module, path: str) -> None:
    """Gives a projection a bias if it has none; a family's own switch would give one to several at once."""
    linear = layer.get_submodule(path)
    if linear.bias is None:
        parent, _, name = path.rpartition(".")
        biased = nn.Linear(linear.in_features, linear.out_features, bias=True)
        setattr(layer.get_submodule(parent), name, biased)


def _resize_convolution(module: nn.Module, channels: int) -> None:
    """Gives a short convolution, which a stock class makes as wide as the hidden states, its number of channels."""
    width, conv, has_bias = module.out_proj.out_features, module.conv, module.conv.bias is not None
    if conv.out_channels != channels:
        (kernel,), (padding,) = conv.kernel_size, conv.padding
        module.in_proj = nn.Linear(width, 3 * channels, bias=has_bias)
        module.conv = nn.Conv1d(channels, channels, kernel, padding=padding, groups=channels, bias=has_bias)
        module.out_proj = nn.Linear(channels, width, bias=has_bias)


def _for_stock_class(settings: PretrainedConfig) -> PretrainedConfig:
    """A copy for the stock class: with heads that make up the hidden states, if it insists on that."""
    copied = copy.copy(settings)
    if settings.resized_attention:
        copied.num_attention_heads = copied.num_key_value_heads = settings.hidden_size // settings.head_dim
    return copied


def _resize_attention(module: nn.Module, settings: PretrainedConfig) -> None:
    """Gives attention, which a stock class makes as wide as the hidden states, its numbers of heads."""
    heads, groups, head_dim = settings.num_attention_heads, settings.num_key_value_heads, settings.head_dim
    for name, count in (("q_proj", heads), ("k_proj", groups), ("v_proj", groups)):
        linear = getattr(module, name)
        setattr(module, name, nn.Linear(linear.in_features, count * head_dim, bias=linear.bias is not None))
    output = module.o_proj
    module.o_proj = nn.Linear(heads * head_dim, output.out_features, bias=output.bias is not None)
    module.num_heads, module.num_key_value_heads, module.num_key_value_groups = heads, groups, heads // groups
    module.hidden_size = heads * head_dim


def _build_layer(layer_class: type[nn.Module], config: PretrainedConfig, layer_idx: int) -> nn.Module:
    settings = layer_config(config, layer_idx)
    layer = layer_class(_LayerConfig(config, _for_stock_class(settings)), layer_idx)
    if settings.resized_attention:
        _resize_attention(layer.self_attn, settings)
    modules = dict(layer.named_modules())
    attention, convolution = modules.get(settings.o_proj_path), modules.get(settings.out_proj_path)
    if attention is not None and attention.in_features != settings.num_attention_heads * settings.head_dim:
        release = f"transformers {transformers.__version__}"
        raise ValueError(f"{layer_class.__name__} of {release} does not read head_dim; install a newer release")
    if convolution is not None and settings.conv_dim is not None:
        _resize_convolution(modules[settings.out_proj_path.rpartition(".")[0]], settings.conv_dim)
    for name in ("o_proj", "down_proj", "out_proj", "delta_out_proj", "mamba_out_proj"):
        path = getattr(settings, f"{name}_path")
        if path in modules and getattr(settings, f"{name}_bias"):
            _add_bias(layer, path)
    return layer


def _one_layer(config: PretrainedConfig) -> PretrainedConfig:
    """A config from which a stock constructor builds everything around the layers, and a single stock layer."""
    single = _for_stock_class(layer_config(config, 0))
    single.num_hidden_layers = 1
    return single


def _take_implementations(config: PretrainedConfig, chosen: PretrainedConfig) -> None:
    """Lets layers compute attention and, since transformers 5, experts as a stock constructor has chosen."""
    for name in ("_attn_implementation", "_experts_implementation"):
        if hasattr(chosen, name):
            setattr(config, name, getattr(chosen, name))


def _build_layers(model: nn.Module, config: PretrainedConfig) -> None:
    """Replaces the single layer of a base model by those of the config."""
    layer_class = type(model.layers[0])
    layers = [_build_layer(layer_class, config, layer_idx) for layer_idx in range(config.num_hidden_layers)]
    model.layers, model.config = nn.ModuleList(layers), config


class _PrunedModel:
    """Mixin for a family's base model: replaces its layers by those of the config."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(_one_layer(config))
        _take_implementations(config, self.config)
        _build_layers(self, config)
        self.post_init()


class _PrunedForCausalLM:
    """Mixin for a family's causal language model: replaces the layers of its base model by those of the config."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(_one_layer(config))
        _take_implementations(config, self.config)
        _build_layers(self.model, config)
        self.config = config
        self.post_init()


def _register_conversions(stock: str, pruned: str) -> None:
    """Makes transformers 5 join the experts of a checkpoint as it does for the family's own."""
    try:
        from transformers import conversion_mapping
    except ImportError:  # transformers 4.57, whose modules are those of the checkpoint
        return
    mapping = conversion_mapping.get_checkpoint_conversion_mapping(stock)
    if mapping is not None:
        conversion_mapping.register_checkpoint_conversion_mapping(pruned, mapping, overwrite=True)


@cache
def _model_class(stem: str, kind: str) -> type:
    stock = stock_class(stem)
    mixin = _PrunedForCausalLM if kind == "ForCausalLM" else _PrunedModel
    if kind == "Model":
        stock = transformers.MODEL_MAPPING[stock.config_class]  # by config, since Gemma 3's is called Gemma3TextModel
    _register_conversions(stock.config_class.model_type, config_class(stem).model_type)
    members = {"__module__": __name__, "config_class": config_class(stem)}
    return type(f"Seap{stem}{kind}", (mixin, stock), members)


def __getattr__(name: str) -> type:
    match = re.fullmatch("Seap(.+?)(ForCausalLM|Model)", name)
    if match is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _model_class(*match.groups())
