"""Reads the rotary position embedding of each layer from config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from seap_export.errors import InputError
from seap_export.model.families.check import check_rope
from seap_export.model.families.config_reader import ConfigReader, number

#: Rotary variants. Their frequencies do not depend on the length of the input, but for longrope, which has two sets.
ROPE_TYPES = ("default", "linear", "llama3", "yarn", "longrope", "proportional")
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor", "original_max_position_embeddings"),
    "proportional": (),
}
_PARAMETERS = frozenset({
    "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "beta_fast", "beta_slow",
    "attention_factor", "mscale", "mscale_all_dim", "truncate", "short_factor", "long_factor",
})  # fmt: skip
_BETA = "llama_4_scaling_beta"
#: Read elsewhere, or of no effect: ministral3 repeats the length here.
_OTHER_KEYS = frozenset({"partial_rotary_factor", _BETA, "max_position_embeddings", "alpha"})
#: How channels are shared out among the three positions of images; a token of a text has the same three.
SECTIONS = frozenset({"mrope_section", "mrope_interleaved"})
_KINDS = {"full_attention", "sliding_attention"}
#: Whether layers have no window, and whether they have one.
_HAVE_WINDOW = (lambda window: window is None, lambda window: window is not None)


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding.

    Attributes:
        dim: How many channels of a head are rotated, from the first; some of the pairs of `proportional` by 0.
        interleaved: Whether the channels of a pair are neighbours; otherwise they are `dim` / 2 apart.
    """

    theta: float
    rope_type: str
    parameters: Mapping[str, Any]
    dim: int
    interleaved: bool = False
    max_position_embeddings: int = 0

    def __post_init__(self) -> None:
        if self.rope_type not in ROPE_TYPES:
            raise InputError(
                f"rope type '{self.rope_type}' is not supported; use a model with one of {', '.join(ROPE_TYPES)}"
            )
        missing = [key for key in _REQUIRED[self.rope_type] if self.parameters.get(key) is None]
        if missing:
            raise InputError(
                f"config.json: rope type '{self.rope_type}' needs {', '.join(missing)}; "
                "correct it, or download the model again"
            )
        if not self.theta > 0:
            raise InputError(
                f"config.json: rope_theta must be positive, not {self.theta}; correct it, or download the model again"
            )
        if self.dim < 2 or self.dim % 2:
            raise InputError(f"config.json: {self.dim} rotated channels of a head are not pairs; correct head_dim")
        check_rope(self.rope_type, self.parameters)
        for key in ("short_factor", "long_factor") if self.rope_type == "longrope" else ():
            if len(self.parameters[key]) != self.dim // 2:
                raise InputError(
                    f"config.json: rope parameter '{key}' must have {self.dim // 2} numbers, one for each pair of "
                    f"channels, not {len(self.parameters[key])}; correct it, or download the model again"
                )

    @property
    def switches_at(self) -> int | None:
        """The length of an input, earlier tokens included, above which longrope uses its other frequencies."""
        return int(self.parameters["original_max_position_embeddings"]) if self.rope_type == "longrope" else None


@dataclass(frozen=True)
class QueryScaling:
    """A factor on the queries of position p: 1 + beta * ln(1 + floor(p / context)), as in Llama 4."""

    beta: float
    context: int


def read_ropes(config: ConfigReader, head_dims: Sequence[int], windows: Sequence[int | None]) -> list[RopeSpec | None]:
    """The rotation of each layer; None: it does not rotate."""
    if config.family.rotation.layers == "none":
        return [None] * len(windows)
    sizes = [{size for size, window in zip(head_dims, windows, strict=True) if kind(window)} for kind in _HAVE_WINDOW]
    if any(len(of_kind) > 1 for of_kind in sizes):
        raise InputError("config.json: 'per_layer_config' gives layers of one kind heads of several sizes; correct it")
    full, local = _kinds(config, *(next(iter(of_kind), head_dims[0]) for of_kind in sizes))
    ropes = [full if window is None else local for window in windows]
    rotates = _rotates(config, windows)
    rotated = [rope if rotates_here else None for rope, rotates_here in zip(ropes, rotates, strict=True)]
    thetas = _listed_thetas(config, len(windows))
    return rotated if thetas is None else [replace(full, theta=theta) if theta else None for theta in thetas]


def _listed_thetas(config: ConfigReader, number_of_layers: int) -> list[float] | None:
    """The base of each layer, 0 if it does not rotate, where a key lists them."""
    key = config.family.rotation.layer_thetas
    listed = config.get(key) if key else None
    if listed is None:
        return None
    if not isinstance(listed, list) or len(listed) < number_of_layers:
        raise InputError(f"config.json: '{key}' must list every layer; correct it")
    return [number(key, theta) for theta in listed[:number_of_layers]]


def query_scaling(config: ConfigReader) -> QueryScaling | None:
    """The scaling of queries by position, if the family has it."""
    parameters = {} if config.family.rotation.layers == "none" else _parameters(config)
    if _BETA not in parameters:
        return None
    if not config.family.rotation.query_scaling:
        raise InputError(f"config.json: '{_BETA}' is not known for this model family; use another model")
    beta, context = (number(key, parameters.get(key)) for key in (_BETA, "original_max_position_embeddings"))
    return QueryScaling(beta, int(context))


def _parameters(config: ConfigReader) -> dict[str, Any]:
    """`rope_scaling` (transformers 4), which counts if there are both, or `rope_parameters` (transformers 5)."""
    return dict(config.mapping("rope_scaling") or config.mapping("rope_parameters"))


def _kinds(config: ConfigReader, head_dim: int, local_head_dim: int) -> tuple[RopeSpec, RopeSpec]:
    """The rotation of layers without a window, and of layers with one, given the sizes of their heads."""
    parameters, rules = _parameters(config), config.family.rotation
    nested = bool(parameters) and set(parameters) <= _KINDS
    if nested is not rules.nested and not (nested and rules.local_theta):
        layers = "each kind of layers" if rules.nested else "all layers"
        raise InputError(f"config.json: this model family has one rotation for {layers}; correct rope_parameters")
    if rules.local_theta and parameters and not nested:
        key = "rope_scaling" if config.mapping("rope_scaling") else "rope_parameters"
        if key == "rope_parameters" or "rope_type" not in parameters:
            raise InputError(
                f"config.json: transformers does not read {key} in this form for this family; write rope_scaling "
                "with its 'rope_type', or rope_parameters with 'full_attention' and 'sliding_attention'"
            )
    full = _rope(config, dict(parameters.get("full_attention") or {}) if nested else parameters, head_dim)
    if not (rules.nested or rules.local_theta):
        return full, full
    base = {"rope_theta": config.number(rules.local_theta)} if rules.local_theta else {}
    local = dict(parameters.get("sliding_attention") or {}) if nested else {}
    return full, _rope(config, {**base, **local}, local_head_dim)


def _rope(config: ConfigReader, parameters: dict[str, Any], head_dim: int) -> RopeSpec:
    of_model = config.get("rope_theta") or 10000.0
    theta = parameters.pop("rope_theta", None) or of_model
    types = [parameters.pop(key, None) for key in ("rope_type", "type")]
    rope_type = types[0] or types[1] or "default"
    positions = config.positive("max_position_embeddings")
    if rope_type == "su" or (rope_type == "yarn" and "short_factor" in parameters):
        rope_type = "longrope"  # as the first Phi-3 models call it
    original = config.get("original_max_position_embeddings")
    if rope_type in ("yarn", "longrope"):
        lengths = [original] if rope_type == "longrope" else []
        lengths += [parameters.get("original_max_position_embeddings"), positions]
        parameters["original_max_position_embeddings"] = next(length for length in lengths if length is not None)
    alpha = parameters.get("alpha") if rope_type == "dynamic" and config.family.rotation.alpha else None
    known = _PARAMETERS | _OTHER_KEYS | (SECTIONS if config.family.rotation.sections else set())
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise InputError(f"config.json: rope parameter '{unknown[0]}' is not known; remove it if it changes nothing")
    if rope_type == "dynamic":  # which changes nothing below `max_position_embeddings`; more positions are refused
        rope_type, parameters = "default", {key: value for key, value in parameters.items() if key not in _PARAMETERS}
    is_proportional = rope_type == "proportional"
    kept = _PARAMETERS | ({"partial_rotary_factor"} if is_proportional else set())
    rope = RopeSpec(
        number("rope_theta", theta),
        rope_type,
        MappingProxyType({key: value for key, value in parameters.items() if key in kept}),
        head_dim if is_proportional else _rotated(config, parameters, head_dim),
        config.family.rotation.interleaved,
        positions,
    )
    if alpha:  # NTK-aware scaling with a fixed alpha, which only raises the base
        rope = replace(rope, theta=rope.theta * number("alpha", alpha) ** (rope.dim / (rope.dim - 2)))
    return rope


def _rotated(config: ConfigReader, parameters: Mapping[str, Any], head_dim: int) -> int:
    key = config.family.rotation.dim
    if key is None or (config.get(key) is None and config.family.rotation.partial):
        return int(head_dim * _partial(config, parameters))
    config.get("partial_rotary_factor")  # which transformers saves besides
    dim = config.positive(key)
    if dim > head_dim:
        raise InputError(
            f"config.json: {dim} rotated channels are more than the {head_dim} of a head; correct '{key}'"
        )
    return dim


def _partial(config: ConfigReader, parameters: Mapping[str, Any]) -> float:
    """The fraction of each head that is rotated."""
    usual = config.get("partial_rotary_factor", 1.0)
    partial = number("partial_rotary_factor", parameters.get("partial_rotary_factor", usual))
    if partial != 1.0 and not (config.family.rotation.partial and 0.0 < partial < 1.0):
        raise InputError(f"partial_rotary_factor {partial:g} is not supported; use a model with a factor of 1")
    return partial


def _rotates(config: ConfigReader, windows: Sequence[int | None]) -> list[bool]:
    number_of_layers, rule = len(windows), config.family.rotation.layers
    if rule == "no_rope_layers":
        interval = config.positive("no_rope_layer_interval")
        listed = config.get("no_rope_layers") or [(index + 1) % interval for index in range(number_of_layers)]
        if not isinstance(listed, list) or len(listed) < number_of_layers:
            raise InputError("config.json: 'no_rope_layers' must list every layer; correct it")
        return [bool(flag) for flag in listed[:number_of_layers]]
    if rule == "sliding":
        has_window = config.get("sliding_window") is not None
        return [window is not None or not has_window for window in windows]
    if rule == "position_embedding_type":
        return [config.get("position_embedding_type") == "rope"] * number_of_layers
    return [True] * number_of_layers
