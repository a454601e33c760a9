"""Pruned decoder models. This file is copied into every artifact and imports nothing from seap_export.

`SeapXForCausalLM` is made on demand: transformers' `XForCausalLM` with layers of different shapes. Every decoder
layer is a stock layer built from that layer's config, so attention backends, caches and generation are those of
transformers. `SeapXModel` is the same without the LM head, which servers such as vLLM have their own of.
"""

import copy
import inspect
import re
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import transformers
from torch import nn
from transformers import PretrainedConfig

from .configuration_seap import config_class, key_value_heads, layer_config, stock_class


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


def _resize_shared(module: nn.Module, neurons: int) -> None:
    """Gives a shared expert, which a stock class makes of several experts, its number of neurons."""
    for name in ("gate_proj", "up_proj"):
        linear = module.get_submodule(name)
        setattr(module, name, nn.Linear(linear.in_features, neurons, bias=linear.bias is not None))
    last = module.down_proj
    module.down_proj = nn.Linear(neurons, last.out_features, bias=last.bias is not None)


def _for_stock_class(settings: PretrainedConfig) -> PretrainedConfig:
    """A copy for the stock class: with heads that make up the hidden states, if it insists on that."""
    copied = copy.copy(settings)
    if settings.resized_attention:
        copied.num_attention_heads = copied.num_key_value_heads = settings.hidden_size // settings.head_dim
    return copied


def _inputs(linear: nn.Module) -> int:
    return linear.nx if hasattr(linear, "nx") else linear.in_features  # Conv1D of GPT-2, or a linear layer


def _resized(linear: nn.Module, inputs: int, outputs: int) -> nn.Module:
    """A projection of the same class with other numbers of inputs and outputs."""
    if hasattr(linear, "nx"):
        return type(linear)(outputs, inputs)
    return type(linear)(inputs, outputs, bias=linear.bias is not None)


def _resize_attention(module: nn.Module, output: str, settings: PretrainedConfig) -> None:
    """Gives attention, which a stock class makes as wide as the hidden states, its numbers of heads.

    Its projections are `output`, and either one each for queries, keys and values, or one for all of them.
    """
    heads, groups, head_dim = settings.num_attention_heads, key_value_heads(settings), settings.head_dim
    each = {"q_proj": heads, "k_proj": groups, "v_proj": groups}
    for name, linear in list(module.named_children()):
        if name == output:
            setattr(module, name, _resized(linear, heads * head_dim, settings.hidden_size))
        elif hasattr(linear, "weight"):
            setattr(module, name, _resized(linear, _inputs(linear), each.get(name, heads + 2 * groups) * head_dim))
    wide, narrow = heads * head_dim, groups * head_dim
    sizes = {
        **dict.fromkeys(("num_heads", "num_attention_heads"), heads),
        **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "kv_heads"), groups),
        **dict.fromkeys(("hidden_size", "embed_dim", "split_size"), wide),
        "kv_dim": narrow,
        "num_key_value_groups": heads // groups,
    }
    for name in sizes.keys() & vars(module).keys():
        setattr(module, name, sizes[name])


def _build_layer(layer_class: type[nn.Module], config: PretrainedConfig, layer_idx: int) -> nn.Module:
    settings = layer_config(config, layer_idx)
    types = getattr(config, "layer_types", None)
    takes_type = (
        "layer_type" in inspect.signature(layer_class.__init__).parameters
    )  # Bamba's, which else has no attention
    options = {"layer_type": types[layer_idx]} if takes_type else {}
    layer = layer_class(_LayerConfig(config, _for_stock_class(settings)), layer_idx, **options)
    if settings.resized_attention:
        parent, _, output = settings.o_proj_path.rpartition(".")
        _resize_attention(layer.get_submodule(parent), output, settings)
    modules = dict(layer.named_modules())
    attention, convolution = modules.get(settings.o_proj_path), modules.get(settings.out_proj_path)
    if attention is not None and _inputs(attention) != settings.num_attention_heads * settings.head_dim:
        release = f"transformers {transformers.__version__}"
        raise ValueError(f"{layer_class.__name__} of {release} does not read head_dim; install a newer release")
    if convolution is not None and settings.conv_dim is not None:
        _resize_convolution(modules[settings.out_proj_path.rpartition(".")[0]], settings.conv_dim)
    if settings.shared_path in modules:
        _resize_shared(modules[settings.shared_path], settings.shared_expert_intermediate_size)
    for name in ("o_proj", "down_proj", "out_proj", "delta_out_proj", "mamba_out_proj"):
        path = getattr(settings, f"{name}_path")
        if path in modules and getattr(settings, f"{name}_bias"):
            _add_bias(layer, path)
    return layer


def _give_factors(model: Any, layers: Sequence[Any], config: PretrainedConfig) -> None:
    """Gives each layer of Falcon-H1 the factors of its parts; the stock class has as many for each layer, and gives
    them again after it has loaded weights.
    """
    compute = getattr(sys.modules[type(layers[0]).__module__], "compute_mup_vector", None)
    if compute is None:
        return
    indices = {layer.mamba: layer_idx for layer_idx, layer in enumerate(layers)}

    def give(mamba: nn.Module) -> None:
        factors, given = compute(layer_config(config, indices[mamba])), getattr(mamba, "mup_vector", None)
        factors = factors if given is None else factors.to(given)
        mamba.register_buffer("mup_vector", factors, persistent=False)

    def initialise(module: nn.Module) -> None:
        if module in indices:
            give(module)
        if module is not model:
            stock_initialise(module)

    stock_initialise, model._init_weights = model._init_weights, initialise
    for mamba in indices:
        give(mamba)


def _around_layers(config: PretrainedConfig) -> PretrainedConfig:
    """A config from which a stock constructor builds everything around the layers, and stock layers: a single one, or
    in Gemma 4, which makes tables of all of them, as many as there are.
    """
    if hasattr(type(config), "kv_sharing_modes"):
        alike = copy.copy(config)  # in all that the tables do not depend on
        sizes = (layer_config(config, layer_idx).head_dim for layer_idx in range(config.num_hidden_layers))
        alike.per_layer_config = {layer_idx: {"head_dim": size} for layer_idx, size in enumerate(sizes)}
        return alike
    single = _for_stock_class(layer_config(config, 0))
    single.num_hidden_layers = 1
    if single.num_hidden_layers != 1:  # Nemotron-H counts what it lists
        single.layer_types = single.layer_types[:1]
    return single


def _take_implementations(config: PretrainedConfig, chosen: PretrainedConfig) -> None:
    """Lets layers compute attention and, since transformers 5, experts as a stock constructor has chosen."""
    for name in ("_attn_implementation", "_experts_implementation"):
        if hasattr(chosen, name):
            setattr(config, name, getattr(chosen, name))


def _build_layers(model: nn.Module, config: PretrainedConfig, path: str) -> None:
    """Replaces the layers of a model by those of the config."""
    parent, _, name = path.rpartition(".")
    holder = model.get_submodule(parent)
    layer_class = type(getattr(holder, name)[0])
    layers = [_build_layer(layer_class, config, layer_idx) for layer_idx in range(config.num_hidden_layers)]
    setattr(holder, name, nn.ModuleList(layers))
    for module in (model, getattr(model, model.base_model_prefix, model), holder):
        module.config = config
    _give_factors(holder, layers, config)


class _PrunedModel:
    """Mixin for a family's base model: replaces its layers by those of the config."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(_around_layers(config))
        _take_implementations(config, self.config)
        _build_layers(self, config, config.layers_path.partition(".")[2])
        self.post_init()


class _PrunedForCausalLM:
    """Mixin for a family's causal language model: replaces the layers of its base model by those of the config."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(_around_layers(config))
        _take_implementations(config, self.config)
        _build_layers(self, config, config.layers_path)
        self.post_init()


def _register_conversions(stock: str, pruned: str) -> None:
    """Makes transformers 5 convert a checkpoint, by the name of a model type or class, as it does the family's own."""
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
    _register_conversions(stock.__name__, f"Seap{stem}{kind}")
    members = {"__module__": __name__, "config_class": config_class(stem)}
    return type(f"Seap{stem}{kind}", (mixin, stock), members)


def __getattr__(name: str) -> type:
    match = re.fullmatch("Seap(.+?)(ForCausalLM|Model)", name)
    if match is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _model_class(*match.groups())
