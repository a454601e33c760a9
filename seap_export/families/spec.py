"""The shapes of a dense or pruned model, read from its config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from seap_export.errors import InputError
from seap_export.families.check import check_rope, check_sizes, check_window
from seap_export.families.family import (
    PROJECTIONS,
    PRUNED_FROM,
    QKV,
    Family,
    Projection,
    family_of_model_type,
)

__all__ = ["ROPE_TYPES", "LayerSpec", "ModelSpec", "RopeSpec", "dense_config", "model_spec"]

#: Rotary variants whose frequencies do not depend on the length of the input.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
_REQUIRED_ROPE_KEYS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor",),
}


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding: the base `theta`, the variant and its parameters."""

    theta: float
    rope_type: str
    parameters: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.rope_type not in ROPE_TYPES:
            raise InputError(
                f"rope type '{self.rope_type}' is not supported; use a model with one of {', '.join(ROPE_TYPES)}"
            )
        missing = [key for key in _REQUIRED_ROPE_KEYS[self.rope_type] if self.parameters.get(key) is None]
        if missing:
            raise InputError(
                f"config.json: rope type '{self.rope_type}' needs {', '.join(missing)}; "
                "correct it, or download the model again"
            )
        if not self.theta > 0:
            raise InputError(
                f"config.json: rope_theta must be positive, not {self.theta}; correct it, or download the model again"
            )
        check_rope(self.rope_type, self.parameters)


@dataclass(frozen=True)
class LayerSpec:
    """The shape of one decoder layer.

    Attributes:
        num_attention_heads: Number of query heads.
        num_key_value_heads: Number of key/value heads (KV groups).
        intermediate_size: Number of MLP neurons.
        biases: The projections that have a bias.
        sliding_window: Number of positions a query attends to, including its own; None: all earlier ones.
    """

    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    biases: frozenset[Projection]
    sliding_window: int | None = None

    def __post_init__(self) -> None:
        if min(self.num_attention_heads, self.num_key_value_heads, self.intermediate_size) < 1:
            raise InputError("a layer needs at least one query head, one key/value head and one neuron")
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"config.json: {self.num_attention_heads} query heads are not a multiple of "
                f"{self.num_key_value_heads} key/value heads; correct it, or download the model again"
            )
        if len(self.biases & set(QKV)) not in (0, len(QKV)):
            raise InputError(
                f"config.json: either all of {', '.join(QKV)} must have a bias, or none; "
                "correct it, or download the model again"
            )

    @property
    def heads_per_group(self) -> int:
        """Number of query heads that share a key/value head."""
        return self.num_attention_heads // self.num_key_value_heads


@dataclass(frozen=True)
class ModelSpec:
    """The shape of a whole decoder model; `layers` holds one `LayerSpec` per layer."""

    family: Family
    vocab_size: int
    hidden_size: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    rope: RopeSpec
    layers: tuple[LayerSpec, ...]

    def projection_shape(self, projection: Projection, layer: int) -> tuple[int, int]:
        """The (out, in) shape of a projection's weight."""
        spec = self.layers[layer]
        queries = spec.num_attention_heads * self.head_dim
        keys = spec.num_key_value_heads * self.head_dim
        shapes: dict[Projection, tuple[int, int]] = {
            "q_proj": (queries, self.hidden_size),
            "k_proj": (keys, self.hidden_size),
            "v_proj": (keys, self.hidden_size),
            "o_proj": (self.hidden_size, queries),
            "gate_proj": (spec.intermediate_size, self.hidden_size),
            "up_proj": (spec.intermediate_size, self.hidden_size),
            "down_proj": (self.hidden_size, spec.intermediate_size),
        }
        return shapes[projection]

    def layer_tensors(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of a layer, in the order of use."""
        family, spec = self.family, self.layers[layer]
        shapes: dict[str, tuple[int, ...]] = {family.tensor("input_layernorm", layer): (self.hidden_size,)}
        for projection in PROJECTIONS:
            if projection == "gate_proj":
                shapes[family.tensor("post_attention_layernorm", layer)] = (self.hidden_size,)
            out, into = self.projection_shape(projection, layer)
            shapes[family.weight(projection, layer)] = (out, into)
            if projection in spec.biases:
                shapes[family.bias(projection, layer)] = (out,)
        if family.has_qk_norm:
            shapes[family.tensor("q_norm", layer)] = (self.head_dim,)
            shapes[family.tensor("k_norm", layer)] = (self.head_dim,)
        return shapes

    def outer_tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of the tensors outside the layers: embedding, final norm and, unless tied, LM head."""
        family = self.family
        shapes: dict[str, tuple[int, ...]] = {
            family.tensor("embed_tokens"): (self.vocab_size, self.hidden_size),
            family.tensor("norm"): (self.hidden_size,),
        }
        if not self.tie_word_embeddings:
            shapes[family.tensor("lm_head")] = (self.vocab_size, self.hidden_size)
        return shapes

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the model."""
        shapes = self.outer_tensors()
        for layer in range(len(self.layers)):
            shapes |= self.layer_tensors(layer)
        return shapes

    def num_parameters(self) -> int:
        """Number of parameters; a tied LM head counts once."""
        return sum(math.prod(shape) for shape in self.tensors().values())

    def prunable_weights(self, layer: int) -> int:
        """Number of weights in a layer's attention and MLP projections, without norms and biases."""
        return sum(math.prod(self.projection_shape(projection, layer)) for projection in PROJECTIONS)

    def with_layers(self, layers: tuple[LayerSpec, ...]) -> ModelSpec:
        """A copy of this model with other layer shapes."""
        return replace(self, layers=layers)


def model_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads the shapes of a model, dense or pruned by seap-export, from its config.json.

    Raises:
        InputError: The family, the activation or the rope type is not supported, or a value is missing, out of range
            or of the wrong type.
    """
    check_sizes(config)
    try:
        return _spec(config)
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"config.json: a value has the wrong type ({reason}); download it again") from error


def _spec(config: Mapping[str, Any]) -> ModelSpec:
    family = family_of_model_type(config.get("model_type"))
    config = {**family.defaults, **config}
    for key in ("rope_parameters", "rope_scaling", "per_layer_config", PRUNED_FROM):
        if not isinstance(config.get(key) or {}, Mapping):
            raise InputError(
                f"config.json: '{key}' must be an object, not {config[key]!r}; correct it, or download the model again"
            )
    _refuse_unsupported(config)
    hidden_size = _positive(config, "hidden_size")
    heads = _positive(config, "num_attention_heads")
    config["head_dim"] = config.get("head_dim") or hidden_size // heads
    theta, rope_type, parameters = _rope(config)
    return ModelSpec(
        family=family,
        vocab_size=_positive(config, "vocab_size"),
        hidden_size=hidden_size,
        head_dim=_positive(config, "head_dim"),
        rms_norm_eps=_number("rms_norm_eps", config.get("rms_norm_eps", 1e-6)),
        max_position_embeddings=_positive(config, "max_position_embeddings"),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        rope=RopeSpec(theta, rope_type, MappingProxyType(parameters)),
        layers=tuple(_layer(family, config, index) for index in range(_positive(config, "num_hidden_layers"))),
    )


def dense_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of the dense model that a pruned one was made from, as far as shapes are concerned."""
    dense = {**config, **(config.get(PRUNED_FROM) or {})}
    return {key: value for key, value in dense.items() if key not in ("per_layer_config", PRUNED_FROM)}


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise InputError(f"activation '{activation}' is not supported; use a model with silu")
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise InputError(f"the model is quantised ({method}); give an unquantised folder or a GGUF file")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    partial = config.get("partial_rotary_factor") or rope.get("partial_rotary_factor") or 1.0
    if partial != 1.0:
        raise InputError(f"partial_rotary_factor {partial} is not supported; use a model with a factor of 1")


def _positive(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(
            f"config.json: '{key}' must be a positive whole number, not {value!r}; "
            "correct it, or download the model again"
        )
    return value


def _number(key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InputError(
            f"config.json: '{key}' must be a number, not {value!r}; correct it, or download the model again"
        )
    return float(value)


def _layer(family: Family, config: Mapping[str, Any], index: int) -> LayerSpec:
    overrides = {int(key): value for key, value in (config.get("per_layer_config") or {}).items()}.get(index, {})
    values = {**config, **overrides}
    values["num_key_value_heads"] = values.get("num_key_value_heads") or values.get("num_attention_heads")
    compensated = {name for name in ("o_proj", "down_proj") if values.get(f"{name}_bias", False)}
    biases = frozenset(name for name in PROJECTIONS if name in compensated or family.has_bias(name, config))
    window = _sliding_window(family, config, index)
    check_window(window)
    return LayerSpec(
        num_attention_heads=_positive(values, "num_attention_heads"),
        num_key_value_heads=_positive(values, "num_key_value_heads"),
        intermediate_size=_positive(values, "intermediate_size"),
        biases=biases,
        sliding_window=window,
    )


def _sliding_window(family: Family, config: Mapping[str, Any], index: int) -> int | None:
    window = config.get("sliding_window")
    if family.sliding_window == "never" or not window:
        return None
    if family.sliding_window == "every_layer":
        return int(window)
    if not config.get("use_sliding_window"):
        return None
    layer_types = config.get("layer_types")
    slides = layer_types[index] == "sliding_attention" if layer_types else index >= config.get("max_window_layers", 28)
    return int(window) if slides else None


def _rope(config: Mapping[str, Any]) -> tuple[float, str, dict[str, Any]]:
    """Base, variant and parameters, from `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5)."""
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = parameters.pop("rope_theta", None) or config.get("rope_theta") or 10000.0
    rope_type = parameters.pop("rope_type", None) or parameters.pop("type", None) or "default"
    parameters.pop("type", None)
    if rope_type == "yarn":
        parameters.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    return _number("rope_theta", theta), rope_type, parameters
