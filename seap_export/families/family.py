"""What distinguishes the model families: tensor names, biases and attention windows."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal, get_args

from seap_export.errors import InputError
from seap_export.families.gguf_form import GgufForm

__all__ = [
    "PROJECTIONS",
    "PRUNED_FROM",
    "PRUNED_PREFIX",
    "QKV",
    "Family",
    "Projection",
    "family_of_gguf",
    "family_of_model_type",
    "is_pruned",
    "supported_families",
]

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)
#: The projections that attention reads; either all three have a bias or none has.
QKV: tuple[Projection, ...] = ("q_proj", "k_proj", "v_proj")
#: Prefix of the `model_type` of a pruned model whose layers differ in shape.
PRUNED_PREFIX = "seap_"
#: Key in the config.json of a pruned model with uniform layers, which keeps the `model_type` of its family: the dense
#: model's values of the keys that pruning changed.
PRUNED_FROM = "pruned_from"
_WINDOWS = ("never", "every_layer", "layer_types")


@dataclass(frozen=True)
class Family:
    """A family of decoder models whose layers differ only in shape.

    Attributes:
        model_type: The `model_type` of the family's config.json.
        architecture: The transformers class of the causal language model.
        gguf: How GGUF files hold its models; None if they use the architecture of another family.
        sliding_window: Which layers use `config.sliding_window`.
        tokenizer_json_as_it_is: Whether transformers 5 loads tokenizer.json unchanged for this `model_type`, whatever
            class tokenizer_config.json names.
        heads_divide_hidden_size: Whether transformers 5 rejects a config of this `model_type` if the number of query
            heads does not divide the hidden size, even though it has a head_dim.
        names: Tensor names. Those in a layer are relative to `names["layer"]`; projections have no suffix.
        biases: True or the config key that enables the bias, for each projection that can have one.
        defaults: Values that transformers assumes for keys missing in config.json.
    """

    model_type: str
    architecture: str
    sliding_window: Literal["never", "every_layer", "layer_types"]
    names: Mapping[str, str]
    biases: Mapping[str, bool | str]
    defaults: Mapping[str, Any]
    gguf: GgufForm | None = None
    tokenizer_json_as_it_is: bool = False
    heads_divide_hidden_size: bool = False

    def __post_init__(self) -> None:
        if self.sliding_window not in _WINDOWS:
            raise ValueError(f"family {self.model_type}: sliding_window must be one of {_WINDOWS}")
        missing = [p for p in (*PROJECTIONS, "embed_tokens", "norm", "lm_head", "layer") if p not in self.names]
        if missing:
            raise ValueError(f"family {self.model_type}: no tensor name for {missing}")

    @property
    def has_qk_norm(self) -> bool:
        """Whether every query and key head is normalised before the rotary embedding."""
        return "q_norm" in self.names

    def has_bias(self, projection: Projection, config: Mapping[str, Any]) -> bool:
        """Whether `projection` has a bias in a dense model with this config.json."""
        switch = self.biases.get(projection, False)
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

    def tensor(self, name: str, layer: int | None = None) -> str:
        """The full name of a norm or embedding tensor, as stored in a safetensors file."""
        prefix = "" if layer is None else self.names["layer"].format(layer=layer)
        return prefix + self.names[name]

    def weight(self, projection: Projection, layer: int) -> str:
        """The full name of a projection's weight (out x in)."""
        return self.tensor(projection, layer) + ".weight"

    def bias(self, projection: Projection, layer: int) -> str:
        """The full name of a projection's bias (out)."""
        return self.tensor(projection, layer) + ".bias"


@cache
def _families() -> tuple[Family, ...]:
    files = sorted(
        (f for f in resources.files(__package__).iterdir() if f.name.endswith(".toml")), key=lambda f: f.name
    )
    return tuple(_parse(tomllib.loads(file.read_text("utf-8"))) for file in files)


def _parse(table: dict[str, Any]) -> Family:
    frozen: dict[str, Any] = {k: MappingProxyType(v) if isinstance(v, dict) else v for k, v in table.items()}
    if "gguf" in frozen:
        form: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table["gguf"].items()}
        frozen["gguf"] = GgufForm(**form)
    return Family(**frozen)


def supported_families() -> tuple[str, ...]:
    """The `model_type` of every family, sorted."""
    return tuple(family.model_type for family in _families())


def is_pruned(config: Mapping[str, Any]) -> bool:
    """Whether this config.json belongs to a model written by seap-export."""
    return str(config.get("model_type")).startswith(PRUNED_PREFIX) or PRUNED_FROM in config


def family_of_model_type(model_type: str | None) -> Family:
    """The family of a `model_type`, of a dense model or of one pruned by seap-export.

    Raises:
        InputError: The family is not supported.
    """
    plain = (model_type or "").removeprefix(PRUNED_PREFIX)
    for family in _families():
        if family.model_type == plain:
            return family
    raise InputError(
        f"model family '{model_type}' is not supported; supported families: {', '.join(supported_families())}"
    )


def family_of_gguf(architecture: str) -> Family:
    """The family of a GGUF file's `general.architecture`.

    Raises:
        InputError: The architecture is not supported.
    """
    known = {family.gguf.architecture: family for family in _families() if family.gguf}
    if architecture not in known:
        raise InputError(
            f"GGUF architecture '{architecture}' is not supported; supported architectures: {', '.join(known)}"
        )
    return known[architecture]
