"""A family of decoder models, as its TOML file describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from seap_export.model.families.names import (
    BCX,
    CONVOLUTION,
    DELTA,
    DENSE,
    LAYER_INPUTS,
    MAMBA,
    NORMS,
    OUTPUTS,
    PROJECTIONS,
    QKV,
    ROUTED,
    SHARED,
    Projection,
)
from seap_export.model.families.parts import (
    AdjustedSize,
    Block,
    FamilyVariant,
    FusedRows,
    GgufForm,
    GlobalLayers,
    KeyValueHeads,
    LayerKind,
    Requirement,
    RotaryRules,
    SharedCaches,
    Window,
    Wrapper,
)
from seap_export.model.families.routing import Routing

#: Prefix of the `model_type` of a pruned model whose layers differ in shape.
PRUNED_PREFIX = "seap_"
#: Key in the config.json of a pruned model with uniform layers, which keeps the `model_type` of its family: the dense
#: model's values of the keys that pruning changed.
PRUNED_FROM = "pruned_from"
#: Projections that a checkpoint may store as one, in the order of their rows.
FUSED: Mapping[str, tuple[Projection, ...]] = {
    "qkv_proj": QKV,
    "gate_up_proj": ("gate_proj", "up_proj"),
    "in_proj": BCX,
    "q_gate_proj": ("q_proj", "g_proj"),
    "delta_qkvz_proj": DELTA[:2],
    "delta_ba_proj": DELTA[2:4],
    "mamba_in_proj": MAMBA[:-1],
    "experts_gate_up_proj": ROUTED[1:3],
}
#: The keys of a rotation, in transformers 4 and 5: where one is given, the default of the other does not count.
ROTATION = ("rope_scaling", "rope_parameters")


@dataclass(frozen=True)
class Family:
    """A family of decoder models whose layers differ only in shape.

    Attributes:
        model_type: The `model_type` of the family's config.json.
        architecture: The transformers class of the causal language model.
        names: Tensor names. Those in a layer are relative to `names["layer"]`; projections have no suffix.
        modules: The names of a layer's tensors in transformers' modules, where they are not the stored ones.
        biases: True or the config key that enables the bias, for each projection that can have one, for `lm_head`, and
            for all `norms` of the residual stream together.
        defaults: Values that transformers assumes for keys missing in config.json.
        overrides: Keys of config.json that, where they are given, count in place of others.
        keys: The family's names of config keys that others call otherwise.
        values: For keys of config.json, values that stand for another in this family.
        harmless: Keys of config.json that do not change what is computed.
        requires: Requirements on the keys that would change it.
        tokenizer_json_as_it_is: Whether transformers 5 loads tokenizer.json unchanged for this `model_type`, whatever
            class tokenizer_config.json names.
        heads_divide_hidden_size: Whether transformers 5 rejects a config of this `model_type` if the number of query
            heads does not divide the hidden size, even though it has a head_dim.
        uniform_keeps_heads: When the transformers class takes hidden_size / heads for the size of a head, whatever
            head_dim says, so that it loads no other number of heads.
        attention_fills_hidden_size: Whether the transformers class makes attention as wide as the hidden states, so
            that the classes of pruned models change it afterwards.
        head_dim_is_derived: Whether the config class makes head_dim of other values and lets nobody set it.
        intermediate_factor: How many neurons there are for each channel of the hidden states where `intermediate_size`
            does not say it; 0: it must.
        position_offset: The row of position 0 in the embedding of positions, if `names` has one (`positions`).
        further_layers: Whether checkpoints have layers for predicting several tokens, which are left out: after the
            last one, or in `mtp`.
        buffers: Endings of the names of tensors in checkpoints that hold no weights.
        other_root: A prefix that the names of all tensors may have in place of their first part.
        transposed: Whether projections are stored with their inputs first.
        fused_rows: How fused projections are stored, unless all rows of one follow those of another.
        key_value_heads: Their number; None: `num_key_value_heads` says it.
        variants: How some models of the family differ.
        block: How the layers compute.
        factors: For projections, the keys of config.json whose product multiplies theirs; `KEY.N` is a list's item.
        rotation: How positions enter.
        layer_types: The kind of the sublayer before the MLP, or of several side by side, by what the `layer_types` of
            config.json call a layer; one word stands for all layers; empty: it is attention in every layer. With `mlp`
            among them, each layer has a single sublayer.
        layer_pattern: Key of a string with a letter for each layer, which counts where `layer_types` is missing; the
            number of layers is that of the words or letters.
        attention_layers: For a config without `layer_types`, the key of the indices of the layers with attention, or
            of the interval between them.
        adjusted_size: A rule for the number of neurons; None: `intermediate_size` is that number.
        window: Which layers attend within a window; None: none.
        global_layers: How the other layers differ from these; None: not at all.
        experts: Which layers have a mixture of experts; None: none.
        shared_caches: Which layers attend to keys and values of others; None: none.
        wrappers: Multimodal checkpoints that hold a model of the family.
        gguf: How GGUF files hold models of the family; None if they use the architecture of another family.
    """

    model_type: str
    architecture: str
    names: Mapping[str, str]
    modules: Mapping[str, str] = field(default_factory=dict)
    biases: Mapping[str, bool | str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    harmless: tuple[str, ...] = ()
    requires: Mapping[str, Requirement] = field(default_factory=dict)
    tokenizer_json_as_it_is: bool = False
    heads_divide_hidden_size: bool = False
    uniform_keeps_heads: Literal["never", "longrope", "always"] = "never"
    attention_fills_hidden_size: bool = False
    head_dim_is_derived: bool = False
    intermediate_factor: int = 0
    position_offset: int = 0
    further_layers: bool = False
    buffers: tuple[str, ...] = ()
    other_root: str = ""
    transposed: bool = False
    fused_rows: Mapping[str, FusedRows] = field(default_factory=dict)
    key_value_heads: KeyValueHeads | None = None
    variants: tuple[FamilyVariant, ...] = ()
    block: Block = Block()
    factors: Mapping[Projection, tuple[str, ...]] = field(default_factory=dict)
    rotation: RotaryRules = RotaryRules()
    layer_types: Mapping[str, tuple[LayerKind, ...]] = field(default_factory=dict)
    layer_pattern: str = ""
    attention_layers: str = ""
    adjusted_size: AdjustedSize | None = None
    window: Window | None = None
    global_layers: GlobalLayers | None = None
    experts: Routing | None = None
    shared_caches: SharedCaches | None = None
    wrappers: tuple[Wrapper, ...] = ()
    gguf: GgufForm | None = None

    def __post_init__(self) -> None:
        wanted = [name for name in self.projections if not any(name in FUSED[fused] for fused in self.fused)]
        missing = [name for name in (*wanted, "embed_tokens", "norm", "lm_head", "layer") if name not in self.names]
        if missing:
            raise ValueError(f"family {self.model_type}: no tensor name for {missing}")
        if len(set(self.names.values())) != len(self.names):
            raise ValueError(f"family {self.model_type}: two tensors have one name")
        if self.block.norm == "layer" and {"post_self_attn_layernorm", "post_mlp_layernorm"} & set(self.names):
            raise ValueError(f"family {self.model_type}: a norm after a sublayer must be an RMS norm")

    @property
    def projections(self) -> tuple[Projection, ...]:
        """The projections that the layers of the family's models can have."""
        lacking = lacking_projections(self.block, self.layer_types, self.experts, self.has_layer_inputs)
        return tuple(name for name in PROJECTIONS if name not in lacking)

    @property
    def outputs(self) -> tuple[Projection, ...]:
        """The ones of `projections` that are output projections and can be given a bias by compensation."""
        return tuple(name for name in OUTPUTS if name in self.projections)

    @property
    def has_layer_inputs(self) -> bool:
        """Whether tokens bring something to each layer besides their embedding."""
        return "layer_inputs" in self.names

    @property
    def has_single_sublayers(self) -> bool:
        return any("mlp" in kinds for kinds in self.layer_types.values())

    @property
    def stem(self) -> str:
        """The prefix of the names of the family's transformers classes, such as `Llama`."""
        return self.architecture.removesuffix("ForCausalLM").removesuffix("LMHeadModel")

    @property
    def fused(self) -> tuple[str, ...]:
        return tuple(name for name in FUSED if name in self.names)

    def completed(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config.json with the defaults of the keys that it lacks."""
        rotates = any(config.get(key) is not None for key in ROTATION)
        lacking = {
            key: value
            for key, value in self.defaults.items()
            if (not rotates if key in ROTATION else key not in config)
        }
        return {**config, **lacking}

    def variant(self, config: Mapping[str, Any]) -> Family:
        """The family as it applies to a model with this config.json; see `variants`."""
        values = self.completed(config)
        fitting = [variant for variant in self.variants if variant.fits(values)]
        if not fitting:
            return self
        stored_names = {key: name for variant in fitting for key, name in variant.names.items()}
        biased = bias_names(stored_names, self.biases)
        return replace(self, names=MappingProxyType({**self.names, **stored_names, **biased}))

    def rows_of(self, fused: str) -> FusedRows:
        """How the rows of a fused projection are laid out."""
        return self.fused_rows.get(fused, FusedRows(FUSED[fused]))

    def key(self, name: str) -> str:
        """The family's own name of a config key, given the usual one."""
        return self.keys.get(name, name)

    def meant(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config.json with the family's own values replaced by the usual ones; see `values`."""
        return {key: self.values.get(key, {}).get(str(value), value) for key, value in config.items()}

    def has_bias(self, part: str, config: Mapping[str, Any]) -> bool:
        """Whether a projection, `lm_head` or the `norms` have a bias in a dense model with this config.json."""
        switch = self.biases.get(part, False)
        return bool(config.get(switch, False)) if isinstance(switch, str) else switch

    def can_have_bias(self, projection: Projection) -> bool:
        """Whether the transformers class of the family can have a bias at `projection`."""
        return bool(self.biases.get(projection, False))

    def switched_with(self, projection: Projection) -> frozenset[Projection]:
        """All projections whose bias is enabled by the same config key, including this one.

        Raises:
            ValueError: The family has no bias at `projection`.
        """
        if not self.can_have_bias(projection):
            raise ValueError(f"{projection} has no bias in {self.architecture}")
        switch = self.biases[projection]
        if switch is True:
            return frozenset({projection})
        return frozenset(name for name in PROJECTIONS if self.biases.get(name) == switch)

    def stored(self, name: str, layer: int | None = None) -> str:
        """The name of a tensor in the family's own checkpoints; a projection's has no `.weight` or `.bias`."""
        prefix = "" if layer is None else self.names["layer"].format(layer=layer)
        return prefix + self.names[name]

    def renamed(self, layer: int) -> dict[str, str]:
        """The names in transformers' modules of a layer's tensors that checkpoints call otherwise, by the latter."""
        prefix = self.names["layer"].format(layer=layer)
        return {self.stored(name, layer): prefix + path for name, path in self.modules.items()}

    def module(self, name: str, layer: int | None = None) -> str:
        """The torch module of the family's transformers class that holds a tensor."""
        return self.stored(name, layer).removesuffix(".weight").removesuffix(".bias")


#: The projections of the kinds of sublayers that only some families have.
_OF_KINDS: Mapping[LayerKind, tuple[Projection, ...]] = {
    "convolution": CONVOLUTION,
    "delta_net": DELTA,
    "mamba": MAMBA,
}


def lacking_projections(
    block: Block,
    layer_types: Mapping[str, tuple[LayerKind, ...]],
    experts: Routing | None,
    has_layer_inputs: bool,
) -> frozenset[Projection]:
    lacking: set[Projection] = set() if block.is_gated else {"gate_proj"}
    lacking |= set() if block.attention_gate else {"g_proj"}
    kinds = {kind for of_layer in layer_types.values() for kind in of_layer}
    lacking |= {one for kind, keys in _OF_KINDS.items() if kind not in kinds for one in keys}
    lacking |= set() if has_layer_inputs else set(LAYER_INPUTS)
    if experts is None:
        lacking |= set(ROUTED)
    elif experts.are_everywhere and not experts.beside_mlp:
        lacking |= set(DENSE)
    if experts is None or not experts.have_shared:
        lacking |= set(SHARED)
    elif not experts.shared_scale:
        lacking.add("shared_gate")
    return frozenset(lacking)


def bias_names(stored_names: Mapping[str, str], biases: Mapping[str, Any]) -> dict[str, str]:
    """The stored names of the biases of norms and of the LM head, which stand beside their weights."""
    biased = [norm for norm in (*NORMS, "norm") if "norms" in biases and norm in stored_names]
    biased += ["lm_head"] if "lm_head" in biases else []
    return {f"{name}_bias": stored_names[name].removesuffix(".weight") + ".bias" for name in biased}


def is_pruned(config: Mapping[str, Any]) -> bool:
    """Whether this config.json belongs to a model written by seap-export."""
    return str(config.get("model_type")).startswith(PRUNED_PREFIX) or PRUNED_FROM in config
