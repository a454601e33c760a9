"""Reads the sublayers of one layer from config.json: a method for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from seap_export.errors import InputError
from seap_export.model.families.config_reader import ConfigReader, positive
from seap_export.model.families.family import Family
from seap_export.model.families.layer_spec import LayerSpec
from seap_export.model.families.names import OUTPUTS, STREAM_SCALE, Norm
from seap_export.model.families.parts import LayerKind
from seap_export.model.families.rope import RopeSpec, query_scaling
from seap_export.model.families.routing import Routing
from seap_export.model.families.sublayers import (
    QK_NORMS,
    V_NORM,
    Activation,
    Attention,
    Convolution,
    DeltaNet,
    Experts,
    Gates,
    LayerInput,
    Mamba,
    Mlp,
    SharedExpert,
    Sublayer,
)

#: The norms before and after experts, and after the MLP beside them.
_BRANCHES: tuple[Norm, Norm, Norm] = ("pre_experts_layernorm", "post_experts_layernorm", "post_dense_layernorm")
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


@dataclass(frozen=True)
class LayerReader:
    """Reads the sublayers of one layer."""

    config: ConfigReader
    index: int
    head_dim: int
    window: int | None
    rope: RopeSpec | None
    lenders: Mapping[int, int]

    @property
    def _family(self) -> Family:
        return self.config.family

    @cached_property
    def _overrides(self) -> Mapping[str, Any]:
        return self.config.of_layer(self.index)

    def layer(self, kinds: tuple[LayerKind, ...]) -> LayerSpec:
        """The layer, given the kinds of its sublayers before the MLP; see `read_layer_types`."""
        config, family, block = self.config, self._family, self._family.block
        makers = {
            "attention": self._attention,
            "convolution": self._convolution,
            "delta_net": self._delta_net,
            "mamba": self._mamba,
            "mlp": self._mlp,
        }
        known = {"attention", *(kind for of_layer in family.layer_types.values() for kind in of_layer)}
        made: Mapping[str, Sublayer] = {name: makers[name]() for name in known}  # reads the keys of all of them
        first, *others = (self._wired(made[kind]) for kind in kinds)
        if family.has_single_sublayers:
            return LayerSpec((replace(first, norm_before=Attention.norms_around[0]),))
        before = (first, *(replace(other, beside=True) for other in others))
        if family.experts is not None and _has_experts(config, family.experts, self.index):
            behind = self._mixture(family.experts)
        else:
            behind = (self._wired(self._mlp()),)
            if config.get(block.beside) if isinstance(block.beside, str) else block.beside:
                norm = behind[0].norm_before or first.norm_before
                behind = (replace(behind[0], beside=True, norm_before=norm),)
        sublayers = (*before, *behind, *self._layer_inputs())
        last = replace(sublayers[-1], scales_stream=STREAM_SCALE in family.names)
        return LayerSpec((*sublayers[:-1], last))

    def _layer_inputs(self) -> tuple[Sublayer, ...]:
        """The sublayer that adds the layer's inputs to the stream; empty: the layer has no inputs."""
        number = inputs_of_layers(self.config)
        if not number:
            return ()
        activation = _activation(self.config)
        made = LayerInput(layer=self.index, hidden_size_per_layer_input=number, activation=activation)
        return (self._wired(made),)

    def _size(self, name: str, default: int | None = None) -> int:
        """A size of this layer, which a pruned model has by layer."""
        usual = self.config.get(name, default)
        return positive(self._family.key(name), self._overrides.get(name, usual))

    def _listed(self, name: str) -> int:
        """A number that is the same for all layers, or in a list that has one for each."""
        value = self.config.get(name)
        return positive(self._family.key(name), value[self.index] if isinstance(value, list) else value)

    def _wired(self, sublayer: Sublayer) -> Sublayer:
        """The sublayer with its norms, biases and factors, as the config gives them."""
        config, family, overrides = self.config, self._family, self._overrides
        compensated = {name for name in OUTPUTS if overrides.get(f"{name}_bias", config.get(f"{name}_bias", False))}
        switches, residual = bias_switches(config), config.formula(family.block.residual_multiplier) or 1.0
        factors = {name: config.product(paths) for name, paths in family.factors.items()}
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

    def _attention(self) -> Attention:
        heads = self._size("num_attention_heads")
        return Attention(
            num_attention_heads=heads,
            num_key_value_heads=self._size("num_key_value_heads", heads),
            head_dim=self.head_dim,
            scale=self.config.formula(self._family.block.attention_scale) or self.head_dim**-0.5,
            softcap=self.config.formula(self._family.block.attention_softcap),
            qk_norm=self._family.block.qk_norm if QK_NORMS[0] in self._family.names else None,
            query_scaling=query_scaling(self.config),
            sliding_window=self.window,
            rope=self.rope,
            gate=self._family.block.attention_gate,
            has_sinks=self._family.block.attention_sinks,
            values_are_keys=self._values_are_keys,
            has_value_norm=V_NORM in self._family.names,
            cache_of=self.lenders.get(self.index),
            lends_cache=self.index in self.lenders.values(),
        )

    @property
    def _values_are_keys(self) -> bool:
        rules = self._family.global_layers
        return rules is not None and bool(self.config.get(rules.values_are_keys)) and self.window is None

    def _convolution(self) -> Convolution:
        return Convolution(
            conv_dim=self._size("conv_dim", self.config.positive("hidden_size")),
            kernel_size=self.config.positive("conv_L_cache"),
        )

    def _delta_net(self) -> DeltaNet:
        return DeltaNet(
            linear_num_value_heads=self._size("linear_num_value_heads"),
            linear_num_key_heads=self._size("linear_num_key_heads"),
            key_head_dim=self.config.positive("linear_key_head_dim"),
            value_head_dim=self.config.positive("linear_value_head_dim"),
            kernel_size=self.config.positive("linear_conv_kernel_dim"),
        )

    def _mamba(self) -> Mamba:
        heads, names_width = self.config.positive("mamba_n_heads"), "mamba_d_ssm" in self._family.defaults
        inner = self.config.positive("mamba_expand") * self.config.positive("hidden_size")
        inner = self.config.positive("mamba_d_ssm", inner) if names_width else inner
        width = self.config.get("mamba_d_head", "auto")
        width = inner // heads if width == "auto" else self.config.positive("mamba_d_head")
        if names_width and heads * width != inner:
            raise InputError(f"config.json: {heads} heads of {width} channels; 'mamba_d_ssm' is {inner}; correct it")
        norm = self._family.block.mamba_norm
        if norm == "keys":
            norm = "before_gate" if self.config.get("mamba_norm_before_gate") else "after_gate"
            norm = norm if self.config.get("mamba_rms_norm") else None
        return Mamba(
            mamba_n_heads=self._size("mamba_n_heads"),
            mamba_n_groups=self._size("mamba_n_groups"),
            head_dim=width,
            state_size=self.config.positive("mamba_d_state"),
            kernel_size=self.config.positive("mamba_d_conv"),
            has_kernel_bias=bool(self.config.get("mamba_conv_bias")),
            norm=norm,
            has_fixed_width=not names_width and self._family.key("mamba_d_head") not in self._family.defaults,
            names_width=names_width,
            least_step=self.config.number("time_step_min") if "time_step_min" in self._family.defaults else 0.0,
        )

    def _mlp(self) -> Mlp:
        usual = self._family.intermediate_factor * self.config.positive("hidden_size") or None
        neurons = self._size("intermediate_size", usual)
        rules = self._family.shared_caches
        if rules is not None and self.index in self.lenders and self.config.get(rules.doubled):
            neurons *= 2
        return Mlp(
            intermediate_size=neurons, activation=_activation(self.config), is_gated=self._family.block.is_gated
        )

    def _experts(self, rules: Routing) -> Experts:
        return Experts(
            num_experts=self._size("num_experts"),
            moe_intermediate_size=self._size("moe_intermediate_size"),
            experts_per_token=self._listed("num_experts_per_tok"),
            scores=rules.scores,
            tolerance=self.config.number(rules.tolerance) if rules.tolerance else 0.0,
            is_normalised=_are_normalised(self.config, rules.normalised),
            scaling=self.config.number(rules.scaling, 1.0) if rules.scaling else 1.0,
            has_selection_bias="selection_bias" in self._family.names,
            output_bias=self.config.positive("hidden_size") if rules.output_bias else 0,
            router_norm=self.config.positive("hidden_size") if rules.router_norm else 0,
            has_expert_scale=rules.expert_scale,
            activation=_activation(self.config),
            gates=_gates(self.config, rules),
        )

    def _mixture(self, rules: Routing) -> tuple[Sublayer, ...]:
        """The experts, and the MLP or the shared ones beside them, if there are any."""
        routed = self._wired(self._experts(rules))
        neurons = self.config.get("intermediate_size")  # of the layers without experts, if there are any
        if rules.beside_mlp and neurons != 0:
            return self._beside(routed, self._wired(self._mlp()))
        number = self.config.get(rules.shared_number, 0) if rules.shared_number else 0
        if not (rules.shared or number):
            return (routed,)
        usual = None
        if number:
            usual = self._listed(rules.shared_number) * self.config.positive("moe_intermediate_size")
        shared = SharedExpert(
            shared_expert_intermediate_size=self._size(rules.shared or "shared_expert_intermediate_size", usual),
            has_scale=rules.shared_scale,
            activation=_activation(self.config),
        )
        return self._beside(routed, self._wired(shared))

    def _beside(self, routed: Sublayer, other: Sublayer) -> tuple[Sublayer, Sublayer]:
        """Experts and the sublayer beside them; a norm after both is one of their sum."""
        before, after, after_other = (norm if norm in self._family.names else None for norm in _BRANCHES)
        if other.norm_after is None:
            return routed, replace(other, beside=True)
        routed = replace(routed, norm_before=before or routed.norm_before, norm_after=after)
        return routed, replace(other, beside=True, norm_after=after_other, norm_of_sum=other.norm_after)


def bias_switches(config: ConfigReader) -> dict[str, Any]:
    """The values of the config keys that enable biases, by key."""
    return {switch: config.get(switch, False) for switch in config.family.biases.values() if isinstance(switch, str)}


def inputs_of_layers(config: ConfigReader) -> int:
    """How many inputs each layer has of a token besides its embedding."""
    key = "hidden_size_per_layer_input"
    return config.positive(key) if config.family.has_layer_inputs and config.get(key) else 0


def _has_experts(config: ConfigReader, rules: Routing, index: int) -> bool:
    """Whether a layer has a mixture of experts in the place of an MLP, or beside one."""
    if config.get("num_experts") == 0 or (rules.switch and not config.get(rules.switch)):
        for key in ("moe_intermediate_size", "num_experts_per_tok"):
            config.get(key)  # of none
        return False
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


def _gates(config: ConfigReader, rules: Routing) -> Gates:
    if not rules.alpha:
        return Gates()
    return Gates(alpha=config.number(rules.alpha), offset=1.0, limit=config.number(rules.limit))


def _activation(config: ConfigReader) -> Activation:
    activation = str(config.get("hidden_act", "silu"))
    if activation not in _ACTIVATIONS:
        raise InputError(
            f"activation '{activation}' is not supported; use a model with one of {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[activation]
