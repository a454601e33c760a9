"""Reads what a model computes, dense or pruned by seap-export, from its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from seap_export.errors import InputError
from seap_export.families.check import check_sizes
from seap_export.families.config_reader import ConfigReader, number, positive
from seap_export.families.family import PRUNED_FROM, family_of_model_type, wrapper_of_model_type
from seap_export.families.layer_types import read_layer_types
from seap_export.families.names import OUTPUTS
from seap_export.families.parts import LayerKind, Routing
from seap_export.families.rope import RopeSpec, query_scaling, read_ropes
from seap_export.families.spec import BlockSpec, LayerSpec, ModelSpec, NormSpec
from seap_export.families.sublayers import (
    QK_NORMS,
    Activation,
    Attention,
    Convolution,
    DeltaNet,
    Experts,
    Mamba,
    Mlp,
    SharedExpert,
    Sublayer,
)
from seap_export.families.windows import read_windows

__all__ = ["dense_config", "language_config", "model_spec"]

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu2",
}
#: What a multimodal wrapper may say of its language model.
_SHARED_KEYS = (
    "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype",
    "quantization_config", "quantization",
)  # fmt: skip


def language_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a language model, with all values in their usual keys: of the one in a multimodal wrapper, or
    the same.

    Raises:
        InputError: The family is not supported, or the wrapper does not hold a model of it.
    """
    wrapper = wrapper_of_model_type(config.get("model_type"))
    if wrapper is None:
        return _in_usual_keys(config)
    inner = config.get(wrapper.config)
    if not isinstance(inner, Mapping):
        raise InputError(f"config.json: '{wrapper.config}' must describe the language model; download it again")
    model_type = inner.get("model_type", wrapper.default)
    family = family_of_model_type(model_type)
    if family.wrapper is None or family.wrapper.model_type != wrapper.model_type:
        raise InputError(f"config.json: a {model_type} model in a {wrapper.model_type} model is not supported")
    shared = {key: config[key] for key in _SHARED_KEYS if config.get(key) is not None}
    return _in_usual_keys({**inner, **shared, "model_type": model_type, "architectures": [family.architecture]})


def _in_usual_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the values of overriding keys where they count, and the number of neurons in its key."""
    family, values = family_of_model_type(config.get("model_type")), dict(config)
    if family.key_value_heads is not None and "num_key_value_heads" not in values:
        given = {**family.defaults, **values}
        heads = positive(family.key("num_attention_heads"), given.get(family.key("num_attention_heads")))
        values["num_key_value_heads"] = family.key_value_heads.of(given, heads)
    for name, key in family.overrides.items():
        given = values.pop(key, None)
        values |= {} if given is None else {name: given}
    if family.layer_pattern:
        key, pattern = family.key("layer_types"), values.pop(family.layer_pattern, None)
        if values.get(key) is None and isinstance(pattern, str):
            values[key] = list(pattern)
        values["num_hidden_layers"] = len(values.get(key) or ())
    rule, full = family.adjusted_size, {**family.defaults, **values}
    if rule is not None and full[rule.switch]:
        size, multiple = (positive(key, full[key]) for key in ("intermediate_size", rule.multiple))
        factor = full[rule.multiplier]
        factor = None if factor is None else number(rule.multiplier, factor)
        values |= {"intermediate_size": rule.neurons(size, factor, multiple), rule.switch: False}
    return values


def model_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a model's config.json; of a multimodal wrapper, its language model.

    Raises:
        InputError: The family, or something that the config asks for, is not supported, or a value is missing, out of
            range or of the wrong type.
    """
    check_sizes(config)
    try:
        config = language_config(config)
        check_sizes(config)
        return _spec(ConfigReader(family_of_model_type(config.get("model_type")).variant(config), config))
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"config.json: a value has the wrong type ({reason}); download it again") from error


def dense_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of the dense model that a pruned one was made from, as far as shapes are concerned."""
    dense = {**config, **(config.get(PRUNED_FROM) or {})}
    return {key: value for key, value in dense.items() if key not in ("per_layer_config", PRUNED_FROM)}


def _spec(config: ConfigReader) -> ModelSpec:
    family = config.family
    _refuse_quantised(config)
    config.mapping(PRUNED_FROM)
    hidden_size, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    head_dim = config.positive("head_dim", hidden_size // heads)
    layers = config.positive("num_hidden_layers")
    windows, kinds = read_windows(config, layers), read_layer_types(config, layers)
    ropes = read_ropes(config, head_dim, windows)
    spec = ModelSpec(
        family=family,
        block=_block(config),
        vocab_size=config.positive("vocab_size"),
        hidden_size=hidden_size,
        norm=_norm(config),
        max_position_embeddings=config.positive("max_position_embeddings"),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        layers=tuple(
            _layer(config, index, kinds[index], head_dim, windows[index], ropes[index]) for index in range(layers)
        ),
        lm_head_bias=family.has_bias("lm_head", _bias_switches(config)),
        position_offset=family.position_offset if "positions" in family.names else None,
    )
    config.refuse_unread()
    return spec


def _refuse_quantised(config: ConfigReader) -> None:
    for key in ("quantization_config", "quantization"):
        quantised = config.mapping(key)
        if not quantised:
            continue
        method = quantised.get("quant_method", "unknown")
        raise InputError(f"the model is quantised ({method}); give an unquantised folder or a GGUF file")


def _norm(config: ConfigReader) -> NormSpec:
    family = config.family
    has_bias = family.has_bias("norms", _bias_switches(config))
    return NormSpec(config.number("rms_norm_eps", 1e-6), family.block.norm == "layer", has_bias)


def _bias_switches(config: ConfigReader) -> dict[str, Any]:
    """The values of the keys that enable biases."""
    return {switch: config.get(switch, False) for switch in config.family.biases.values() if isinstance(switch, str)}


def _block(config: ConfigReader) -> BlockSpec:
    block = config.family.block
    return BlockSpec(
        embedding_multiplier=config.formula(block.embedding_multiplier) or 1.0,
        logits_multiplier=config.formula(block.logits_multiplier) or 1.0,
        logits_softcap=config.formula(block.logits_softcap),
    )


def _layer(
    config: ConfigReader,
    index: int,
    kinds: tuple[LayerKind, ...],
    head_dim: int,
    window: int | None,
    rope: RopeSpec | None,
) -> LayerSpec:
    overrides = _overrides(config, index)
    family, block = config.family, config.family.block

    def size(name: str, default: int | None = None) -> int:
        usual = config.get(name, default)
        return positive(config.family.key(name), overrides.get(name, usual))

    compensated = {name for name in OUTPUTS if overrides.get(f"{name}_bias", config.get(f"{name}_bias", False))}
    switches, residual = _bias_switches(config), config.formula(block.residual_multiplier) or 1.0
    factors = {name: config.product(paths) for name, paths in family.factors.items()}

    def wired(sublayer: Sublayer) -> Sublayer:
        before, after = (norm if norm in family.names else None for norm in sublayer.norms_around)
        biased = (name for name in sublayer.projections if name in compensated or family.has_bias(name, switches))
        return replace(
            sublayer,
            norm_before=before,
            norm_after=after,
            biases=frozenset(biased),
            multiplier=residual * factors.get(sublayer.output, 1.0),
            factors=MappingProxyType({one: factors[one] for one in sublayer.readers if factors.get(one, 1.0) != 1.0}),
        )

    def attention() -> Attention:
        heads = size("num_attention_heads")
        return Attention(
            num_attention_heads=heads,
            num_key_value_heads=size("num_key_value_heads", heads),
            head_dim=head_dim,
            scale=config.formula(block.attention_scale) or head_dim**-0.5,
            softcap=config.formula(block.attention_softcap),
            qk_norm=block.qk_norm if QK_NORMS[0] in family.names else None,
            query_scaling=query_scaling(config),
            sliding_window=window,
            rope=rope,
            has_gate=block.attention_gate,
        )

    def convolution() -> Convolution:
        rules = family.convolution
        assert rules is not None
        return Convolution(
            conv_dim=size("conv_dim", config.positive("hidden_size")),
            kernel_size=config.positive(rules.kernel_size),
        )

    def delta_net() -> DeltaNet:
        return DeltaNet(
            linear_num_value_heads=size("linear_num_value_heads"),
            linear_num_key_heads=size("linear_num_key_heads"),
            key_head_dim=config.positive("linear_key_head_dim"),
            value_head_dim=config.positive("linear_value_head_dim"),
            kernel_size=config.positive("linear_conv_kernel_dim"),
        )

    def mamba() -> Mamba:
        heads, names_width = config.positive("mamba_n_heads"), "mamba_d_ssm" in family.defaults
        inner = config.positive("mamba_expand") * config.positive("hidden_size")
        inner = config.positive("mamba_d_ssm", inner) if names_width else inner
        width = config.get("mamba_d_head", "auto")
        width = inner // heads if width == "auto" else config.positive("mamba_d_head")
        if names_width and heads * width != inner:
            raise InputError(f"config.json: {heads} heads of {width} channels are not the {inner} of 'mamba_d_ssm'")
        norm = block.mamba_norm
        if norm == "keys":
            norm = "before_gate" if config.get("mamba_norm_before_gate") else "after_gate"
            norm = norm if config.get("mamba_rms_norm") else None
        return Mamba(
            mamba_n_heads=size("mamba_n_heads"),
            mamba_n_groups=size("mamba_n_groups"),
            head_dim=width,
            state_size=config.positive("mamba_d_state"),
            kernel_size=config.positive("mamba_d_conv"),
            has_kernel_bias=bool(config.get("mamba_conv_bias")),
            norm=norm,
            has_fixed_width=not names_width and family.key("mamba_d_head") not in family.defaults,
            names_width=names_width,
            least_step=config.number("time_step_min") if "time_step_min" in family.defaults else 0.0,
        )

    def experts(rules: Routing) -> Experts:
        return Experts(
            num_experts=size("num_experts"),
            moe_intermediate_size=size("moe_intermediate_size"),
            experts_per_token=config.positive("num_experts_per_tok"),
            scores=rules.scores,
            is_normalised=_are_normalised(config, rules.normalised),
            scaling=config.number(rules.scaling, 1.0) if rules.scaling else 1.0,
            has_selection_bias=bool(rules.selection_bias),
            activation=_activation(config),
        )

    def mlp() -> Mlp:
        usual = family.intermediate_factor * config.positive("hidden_size") or None
        neurons = size("intermediate_size", usual)
        return Mlp(intermediate_size=neurons, activation=_activation(config), is_gated=block.is_gated)

    makers = {
        "attention": attention,
        "convolution": convolution,
        "delta_net": delta_net,
        "mamba": mamba,
        "mlp": mlp,
    }
    known = {"attention", *(kind for of_layer in family.layer_types.values() for kind in of_layer)}
    made: Mapping[str, Sublayer] = {name: makers[name]() for name in known}  # reads the keys of all of them
    first, *others = (wired(made[kind]) for kind in kinds)
    if family.has_single_sublayers:
        return LayerSpec((replace(first, norm_before=Attention.norms_around[0]),))
    before = (first, *(replace(other, beside=True) for other in others))
    if family.experts is not None and _has_experts(config, family.experts, index):
        routed = wired(experts(family.experts))
        rules = family.experts
        config.get("intermediate_size")  # of the layers without experts, if there are any
        number = config.get(rules.shared_number, 0) if rules.shared_number else 0
        if not (rules.shared or number):
            return LayerSpec((*before, routed))
        usual = config.positive(rules.shared_number) * config.positive("moe_intermediate_size") if number else None
        shared = SharedExpert(
            shared_expert_intermediate_size=size(rules.shared or "shared_expert_intermediate_size", usual),
            has_scale=rules.shared_scale,
            activation=_activation(config),
        )
        return LayerSpec((*before, routed, replace(wired(shared), beside=True)))
    behind = wired(mlp())
    if config.get(block.beside) if isinstance(block.beside, str) else block.beside:
        behind = replace(behind, beside=True, norm_before=behind.norm_before or first.norm_before)
    return LayerSpec((*before, behind))


def _has_experts(config: ConfigReader, rules: Routing, index: int) -> bool:
    """Whether a layer has a mixture of experts in the place of an MLP."""
    types = config.get(rules.types, None) if rules.types else None
    first, last = (config.get(key, None) if key else None for key in (rules.first, rules.last))
    dense = config.get(rules.dense, ()) if rules.dense else ()
    step = config.positive(rules.step, 1) if rules.step else 1
    if types is not None:
        return bool(types[index] == "sparse")
    is_within = (first or 0) <= index and (last is None or last < 0 or index <= last)
    return is_within and index not in dense and (index + 1) % step == 0


def _are_normalised(config: ConfigReader, rule: bool | str) -> bool:
    return bool(config.get(rule, False)) if isinstance(rule, str) else rule


def _activation(config: ConfigReader) -> Activation:
    activation = str(config.get("hidden_act", "silu"))
    if activation not in _ACTIVATIONS:
        raise InputError(
            f"activation '{activation}' is not supported; use a model with one of {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[activation]


def _overrides(config: ConfigReader, index: int) -> Mapping[str, Any]:
    """What `per_layer_config` says of a layer, by the usual names."""
    per_layer = {int(key): value for key, value in config.mapping("per_layer_config").items()}.get(index, {})
    usual = {key: name for name, key in config.family.keys.items()}
    return {usual.get(key, key): value for key, value in per_layer.items()}
