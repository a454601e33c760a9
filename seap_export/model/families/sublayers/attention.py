"""Attention: query heads, groups of which share a key/value head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from seap_export.errors import InputError
from seap_export.model.families.names import QKV, Norm, Projection
from seap_export.model.families.parts import AttentionGate, QkNorm
from seap_export.model.families.rope import QueryScaling, RopeSpec
from seap_export.model.families.sublayers.grouped import Grouped

#: The norms of query and key heads, and that of value heads.
QK_NORMS = ("q_norm", "k_norm")
V_NORM = "v_norm"


@dataclass(frozen=True, kw_only=True)
class Attention(Grouped):
    """Causal attention; its channels are those of the query heads, `head_dim` each.

    Attributes:
        num_attention_heads: Number of query heads.
        num_key_value_heads: Number of key/value heads (KV groups).
        scale: Factor on scores.
        softcap: c in c tanh(score / c); None: none.
        qk_norm: How queries and keys are normalised; None: not at all.
        query_scaling: Factor on queries by position.
        sliding_window: Number of positions a query attends to, including its own; None: all earlier ones.
        rope: How queries and keys are rotated; None: not at all.
        gate: Whether what a head attends to is multiplied by the sigmoid of a gate for each channel, or of one for all
            channels; None: it is not.
        has_sinks: Whether each head has a learned score that takes part in its softmax, of a key without a value.
        values_are_keys: Whether keys, before they are normalised and rotated, serve as values, too.
        has_value_norm: Whether the heads of values are normalised, by a norm without a weight.
        cache_of: The layer whose keys and values it attends to; None: it has its own.
        lends_cache: Whether later layers attend to its keys and values, which all stay then.
    """

    output: ClassVar[Projection] = "o_proj"
    noun: ClassVar[str] = "attention"
    label: ClassVar[str] = "self_attn"
    size_keys: ClassVar[tuple[str, ...]] = ("num_attention_heads", "num_key_value_heads")
    norms_around: ClassVar[tuple[Norm | None, Norm]] = ("input_layernorm", "post_self_attn_layernorm")

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    scale: float
    softcap: float | None = None
    qk_norm: QkNorm | None = None
    query_scaling: QueryScaling | None = None
    sliding_window: int | None = None
    rope: RopeSpec | None = field(default=None, hash=False)
    gate: AttentionGate | None = None
    has_sinks: bool = False
    values_are_keys: bool = False
    has_value_norm: bool = False
    cache_of: int | None = None
    lends_cache: bool = False

    def __post_init__(self) -> None:
        if min(self.num_attention_heads, self.num_key_value_heads, self.head_dim) < 1:
            raise InputError("attention needs at least one query head and one key/value head")
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"config.json: {self.num_attention_heads} query heads are not a multiple of "
                f"{self.num_key_value_heads} key/value heads; correct it, or download the model again"
            )
        if len(self.biases & set(self.readers)) not in (0, len(self.readers)):
            raise InputError(
                f"config.json: either all of {', '.join(self.readers)} must have a bias, or none; "
                "correct it, or download the model again"
            )

    @property
    def heads_per_group(self) -> int:
        """Number of query heads that share a key/value head."""
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def readers(self) -> tuple[Projection, ...]:
        qkv = QKV[:2] if self.values_are_keys else QKV
        qkv = QKV[:1] if self.cache_of is not None else qkv
        return qkv if self.gate is None else (*qkv, "g_proj")

    @property
    def states(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("key", "value") if self.cache_of is None else ()

    @property
    def fixed_groups(self) -> bool:
        """True where its keys and values are those of several layers."""
        return self.lends_cache or self.cache_of is not None

    @property
    def channels(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def unit(self) -> int:
        return self.head_dim

    @property
    def whole_because(self) -> str | None:
        return "its norms run over all heads" if self.qk_norm == "over_all_heads" else None

    @property
    def extra(self) -> str | None:
        if self.cache_of is not None:
            return "keys and values of another one"
        if self.has_value_norm or self.values_are_keys:
            return "norms of values in attention" if self.has_value_norm else "keys for values"
        if self.gate == "heads":
            return "gates on the heads of attention"
        return "an output gate in attention" if self.gate else "attention sinks" if self.has_sinks else None

    @property
    def is_usual_softmax(self) -> bool:
        """Whether it takes the plain softmax of the scores, which every implementation of attention has."""
        return self.softcap is None and not self.has_sinks

    @property
    def channel_rows(self) -> tuple[Projection, Sequence[int]] | None:
        """Those of its values, unless they are keys, are normalised, or belong to several layers."""
        if self.values_are_keys or self.has_value_norm or self.fixed_groups:
            return None
        size, per_group = self.head_dim, self.heads_per_group
        return "v_proj", [
            head // per_group * size + i for head in range(self.num_attention_heads) for i in range(size)
        ]

    def widths(self) -> Mapping[Projection, int]:
        keys = self.num_key_value_heads * self.head_dim
        widths: dict[Projection, int] = {"k_proj": keys, "v_proj": keys}
        widths |= {"g_proj": self.num_attention_heads} if self.gate == "heads" else {}
        return {name: widths.get(name, self.channels) for name in self.readers}

    def inner_tensors(self) -> Mapping[str, tuple[int, ...]]:
        return {"sinks": (self.num_attention_heads,)} if self.has_sinks else {}

    def inner_norms(self) -> Mapping[str, int]:
        of_values = {V_NORM: self.head_dim} if self.has_value_norm and self.cache_of is None else {}
        if self.qk_norm is None:
            return of_values
        widths = self.widths() if self.qk_norm == "over_all_heads" else {}
        readers = zip(QK_NORMS, QKV, strict=False)
        named = {norm: widths.get(name, self.head_dim) for norm, name in readers if name in self.readers}
        return {**named, **of_values}
