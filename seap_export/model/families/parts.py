"""The parts of a family's description, as the tables of its TOML file give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from seap_export.model.families.names import Projection

#: The kinds of sublayers that a layer can have before its MLP, or an MLP where each layer has a single sublayer.
LayerKind = Literal["attention", "convolution", "delta_net", "mamba", "mlp"]
#: How queries and keys are normalised: each head before or after it is rotated, or all heads as one vector before.
QkNorm = Literal["before_rotation", "after_rotation", "over_all_heads"]
#: Whether the gates of attention are one for each channel of a head, or one for each head.
AttentionGate = Literal["channels", "heads"]


@dataclass(frozen=True)
class Block:
    """How the layers compute, beyond what the tensors' names say.

    A formula is `KEY` or `KEY ** EXPONENT`, with a key of config.json.

    Attributes:
        is_gated: Whether the MLP has a gate.
        norm: The norms of the residual stream: RMS norms, or LayerNorm, which subtracts the mean.
        beside: Whether the MLP reads the stream that attention read, or the key of config.json that says so; without a
            norm of its own, it reads it through the same.
        norm_weight: Whether these norms have a weight; without one, their gain is 1.
        norm_offset: The number that is added to a stored norm weight to get its gain.
        qk_norm: Whether the heads of queries and keys are normalised before or after they are rotated, or all heads as
            one vector before they are; where there are such norms.
        embedding_multiplier: Formula of the factor on embeddings.
        residual_multiplier: Formula of the factor on the outputs of attention and MLP.
        logits_multiplier: Formula of the factor on logits.
        attention_scale: Formula of the factor on attention scores; None: head_dim ** -0.5.
        attention_gate: Whether what heads attend to is gated, by channel (`channels`) or as a whole (`heads`); None:
            not at all.
        attention_sinks: Whether each head has a learned score that takes part in its softmax.
        mamba_norm: Whether Mamba-2 normalises what it gates before or after that, or as `mamba_rms_norm` and
            `mamba_norm_before_gate` say (`keys`); None: not at all.
        attention_softcap: Key of the bound c of attention scores, c tanh(score / c).
        logits_softcap: Key of the bound of logits.
    """

    is_gated: bool = True
    norm: Literal["rms", "layer"] = "rms"
    norm_weight: bool = True
    beside: bool | str = False
    norm_offset: float = 0.0
    qk_norm: QkNorm = "before_rotation"
    embedding_multiplier: str | None = None
    residual_multiplier: str | None = None
    logits_multiplier: str | None = None
    attention_scale: str | None = None
    attention_gate: AttentionGate | None = None
    attention_sinks: bool = False
    mamba_norm: Literal["before_gate", "after_gate", "keys"] | None = None
    attention_softcap: str | None = None
    logits_softcap: str | None = None


@dataclass(frozen=True)
class AdjustedSize:
    """A rule for the number of neurons: 2/3 of `intermediate_size`, times a factor, rounded up.

    Attributes:
        switch: Key that asks for it.
        multiplier: Key of the factor; null leaves out the rounding, too.
        multiple: Key of the number that the result is a multiple of.
    """

    switch: str
    multiplier: str
    multiple: str

    def neurons(self, size: int, multiplier: float | None, multiple: int) -> int:
        """The number of neurons, as transformers computes it."""
        size = int(2 * size / 3)
        return size if multiplier is None else -(-int(multiplier * size) // multiple) * multiple


@dataclass(frozen=True)
class FusedRows:
    """How the rows of projections that are stored as one are laid out: parts with an equal share of each.

    Attributes:
        order: The projections, in the order in which their rows follow each other within a part.
        parts: The number of parts, or one for each query head (`heads`), key/value head (`groups`), or key head of
            linear attention (`key_heads`).
    """

    order: tuple[Projection, ...]
    parts: int | Literal["heads", "groups", "key_heads"] = 1


@dataclass(frozen=True)
class GgufForm:
    """How GGUF files hold the models of a family, as far as they do not say it themselves.

    Attributes:
        architecture: `general.architecture` of the files.
        is_read: Whether such files can be read; otherwise they are only written.
        uneven: The architecture of files with layers of several shapes, of this family unless the file names another;
            "": there is none.
        rotary_rows_permuted: Whether they store the q and k rows for interleaved rotation.
        names: The plain names of norms whose GGUF names usually mean another one.
        keys: The metadata that hold the values of further keys of config.json.
        constants: What llama.cpp assumes for keys of config.json that the metadata do not give: a value, a formula, or
            a table with one for a number of layers and another (`other`) for the rest.
        tokenizers: The only values of `tokenizer.ggml.pre` whose ids can be guaranteed, because transformers 5 loads
            the tokenizers of this `model_type` with a rule of its own, whatever the files say; empty: all known ones.
        spaces_kept_after: In a sentencepiece tokenizer, the special tokens after which spaces are kept; after the
            others they are dropped, which a GGUF file does not record. None: after all.
    """

    architecture: str
    is_read: bool = True
    uneven: str = ""
    rotary_rows_permuted: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    tokenizers: tuple[str, ...] = ()
    spaces_kept_after: tuple[str, ...] | None = None


@dataclass(frozen=True)
class GlobalLayers:
    """How layers without a window differ from those with one. The last layer never has a window.

    Attributes:
        head_dim: Key of the size of their heads.
        num_key_value_heads: Key of the number of their key/value heads, if their values are keys and it is given.
        values_are_keys: Key that says that their keys serve as values, too.
    """

    head_dim: str
    num_key_value_heads: str
    values_are_keys: str

    def in_usual_keys(self, config: Mapping[str, Any], defaults: Mapping[str, Any], pattern: int) -> dict[str, Any]:
        """The sizes of these layers in keys of the model and in `per_layer_config`, where transformers writes them."""
        given = {**defaults, **config}
        number, keys = given["num_hidden_layers"], {"head_dim": self.head_dim}
        words = ["sliding_attention" if (index + 1) % pattern else "full_attention" for index in range(number)]
        words = [*(given.get("layer_types") or words)[: number - 1], "full_attention"]
        if given.get(self.values_are_keys):
            keys["num_key_value_heads"] = self.num_key_value_heads
        per_layer = config.get("per_layer_config")
        if per_layer is None:
            sizes = {name: given[key] for name, key in keys.items() if given.get(key) is not None}
            per_layer = {index: dict(sizes) for index, word in enumerate(words) if word == "full_attention"}
        per_layer = {str(int(index)): values for index, values in per_layer.items()}
        last = per_layer.get(str(number - 1), {})
        of_model = {key: config.get(key) or last.get(name, given[name]) for name, key in keys.items()}
        return {"head_dim": given["head_dim"], "layer_types": words, "per_layer_config": per_layer, **of_model}


@dataclass(frozen=True)
class KeyValueHeads:
    """The number of key/value heads of a family whose config.json says it in several keys.

    Attributes:
        single: Key that says that there is one for all query heads.
        several: Key that says that there are `number`, whatever `single` says; None: there is no such key.
        number: Key of their number; otherwise there are as many as query heads.
    """

    single: str
    several: str | None = None
    number: str | None = None

    def of(self, config: Mapping[str, Any], heads: int) -> int:
        """The number of key/value heads, given all values of config.json and the number of query heads."""
        given = (config.get(self.number) if self.number else None) or heads
        return int(given) if (self.several and config.get(self.several)) or not config.get(self.single) else 1


@dataclass(frozen=True)
class SharedCaches:
    """Which layers attend to keys and values of others: the last ones, to those of the last of the same kind before.

    Attributes:
        doubled: Key that says that their MLPs have twice as many neurons.
    """

    number: str
    doubled: str


@dataclass(frozen=True)
class FamilyVariant:
    """How models of a family differ whose config.json has certain values.

    Attributes:
        when: The values; of several in a list, any. A missing one is `null`.
        names: Stored names, of tensors that others lack or call otherwise.
    """

    when: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)

    def fits(self, config: Mapping[str, Any]) -> bool:
        """Whether a config.json has the values of `when`."""
        given = {key: "null" if config.get(key) is None else config[key] for key in self.when}
        return all(given[key] in (value if isinstance(value, tuple) else (value,)) for key, value in self.when.items())


@dataclass(frozen=True)
class RotaryRules:
    """How positions are rotated into queries and keys.

    Attributes:
        interleaved: Whether the channels of a pair are neighbours; otherwise they are half a head apart.
        partial: Whether `partial_rotary_factor` says how much of each head is rotated.
        layers: Which layers rotate: all, those of `no_rope_layers`, those with a window if `sliding_window` is set
            (`sliding`), all if `position_embedding_type` is `rope`, or none.
        dim: Key of the number of channels of a head that are rotated.
        layer_thetas: Key of the base of each layer, 0 where it does not rotate.
        local_theta: Key of the base in layers with a window, whose rotation is not scaled.
        nested: Whether the parameters are those of layers without a window and of layers with one, by their words.
        alpha: Whether a fixed `alpha` of the rope type `dynamic` raises the base.
        query_scaling: Whether `llama_4_scaling_beta` scales queries by their position.
        sections: Whether sections for images are known.
    """

    interleaved: bool = False
    partial: bool = False
    layers: Literal["all", "no_rope_layers", "sliding", "position_embedding_type", "none"] = "all"
    dim: str | None = None
    layer_thetas: str = ""
    local_theta: str | None = None
    nested: bool = False
    alpha: bool = False
    query_scaling: bool = False
    sections: bool = False


@dataclass(frozen=True)
class Window:
    """Which layers attend within `config.sliding_window`.

    Attributes:
        layers: All of them, those of `layer_types`, or those that `attention_types` calls local: words, and how many
            times they are repeated.
        pattern: Without `layer_types`, every layer but each `pattern`-th has a window.
        first: Without `layer_types`, the key of the first layer with a window.
        switch: Key that has to be true.
    """

    layers: Literal["all", "layer_types", "attention_types"]
    pattern: int | None = None
    first: str | None = None
    switch: str | None = None


@dataclass(frozen=True)
class Wrapper:
    """A multimodal checkpoint that holds a model of the family.

    Attributes:
        model_type: The `model_type` of its config.json.
        default: The language model's `model_type` where its config, at `text_config`, names none: that of the family,
            unless the file says otherwise.
        prefixes: Prefixes of its tensors' names that stand in place of `model.`.
        left_out: Prefixes of the names of tensors that the language model does not need.
        has_sections: Whether the language model is one of the family with sections for images in its rotation, which
            it calls `MODEL_TYPE_text`.
        defaults: The values that transformers assumes for keys of the language model that are missing, where those of
            the family are others.
        beside: Keys that are not the language model's, in checkpoints that have its keys beside them and none at
            `text_config`; empty: there are no such checkpoints.
    """

    model_type: str
    prefixes: tuple[str, ...]
    left_out: tuple[str, ...]
    default: str = ""
    has_sections: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Requirement:
    """The value that a key must have where it is given, and the part of the model that is not supported otherwise.

    `same_as` is the key of that value, if the family has no fixed one. `where` is a key without which, or with 0 in
    which, the value changes nothing.
    """

    part: str
    value: Any = None
    same_as: str | None = None
    where: str | None = None
