"""The places within a decoder where a graph and its torch model can be compared, in the order they are computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from seap_export.families import ModelSpec
from seap_export.families.names import QKV

__all__ = ["Tap", "decoder_taps", "tapped"]

Side = Literal["input", "output", "output without bias"]


@dataclass(frozen=True)
class Tap:
    """One place.

    Attributes:
        layer: Index of the layer; None: before or after all layers.
        sublayer: What computes it, as transformers names it; `residual` is the stream after attention or MLP.
        values: Names that the value may have in a graph; the first one found is used.
        modules: torch modules whose results, concatenated, are this value.
        side: Whether the modules' inputs or outputs are meant.
    """

    layer: int | None
    sublayer: str
    values: tuple[str, ...]
    modules: tuple[str, ...]
    side: Side = "output"

    @property
    def name(self) -> str:
        """The name in reports."""
        return self.sublayer if self.layer is None else f"layers.{self.layer}.{self.sublayer}"


def decoder_taps(spec: ModelSpec) -> Iterator[Tap]:
    """All places of a model, from the embedding to the last norm."""
    family = spec.family
    yield Tap(None, "embed_tokens", _node("embed_tokens"), (_module(family.tensor("embed_tokens")),))
    last = len(spec.layers) - 1
    for index in range(len(spec.layers)):
        yield from _attention_taps(spec, index)
        yield from _mlp_taps(spec, index, f"layers.{index + 1}.input_layernorm" if index < last else "norm")
    yield Tap(None, "norm", _norm("norm"), (_module(family.tensor("norm")),))


def _attention_taps(spec: ModelSpec, index: int) -> Iterator[Tap]:
    family, here = spec.family, f"layers.{index}"
    norm = _module(family.tensor("input_layernorm", index))
    yield Tap(index, "input_layernorm", _norm(f"{here}.input_layernorm"), (norm,))
    projections = tuple(family.tensor(name, index) for name in QKV)
    yield Tap(index, "self_attn.qkv_proj", _node(f"{here}.self_attn.qkv_proj"), projections)
    for name in ("q_norm", "k_norm") if family.has_qk_norm else ():
        module = _module(family.tensor(name, index))
        yield Tap(index, f"self_attn.{name}", _node(f"{here}.self_attn.{name}.join"), (module,))
    output = family.tensor("o_proj", index)
    yield Tap(index, "self_attn.attention", _node(f"{here}.self_attn.attention"), (output,), "input")
    yield Tap(index, "self_attn.o_proj", _node(f"{here}.self_attn.o_proj"), (output,), "output without bias")
    after, norm = f"{here}.post_attention_layernorm", _module(family.tensor("post_attention_layernorm", index))
    yield Tap(index, "self_attn.residual", _residual(after), (norm,), "input")
    yield Tap(index, "post_attention_layernorm", _norm(after), (norm,))


def _mlp_taps(spec: ModelSpec, index: int, after: str) -> Iterator[Tap]:
    family, here = spec.family, f"layers.{index}.mlp"
    for name in ("gate_proj", "up_proj"):
        yield Tap(index, f"mlp.{name}", _node(f"{here}.{name}"), (family.tensor(name, index),))
    down = family.tensor("down_proj", index)
    yield Tap(index, "mlp.gated", _node(f"{here}.gated"), (down,), "input")
    yield Tap(index, "mlp.down_proj", _node(f"{here}.down_proj"), (down,), "output without bias")
    following = ("norm", None) if after == "norm" else ("input_layernorm", index + 1)
    yield Tap(index, "mlp.residual", _residual(after), (_module(family.tensor(*following)),), "input")


def _node(name: str) -> tuple[str, ...]:
    """A product, with its bias if a separate node adds it."""
    return f"{name}.bias_add.output", f"{name}.output"


def _norm(name: str) -> tuple[str, ...]:
    """A norm, in the dtype of the products that read it."""
    return f"{name}.narrow.output", f"{name}.output"


def _residual(norm: str) -> tuple[str, ...]:
    """The residual stream that a norm reads: an output of the fused norm, a sum in the standard dialect."""
    return f"{norm}.residual", f"{norm}.residual.output"


def _module(weight: str) -> str:
    return weight.removesuffix(".weight")


def tapped(taps: Iterable[Tap], values: frozenset[str]) -> list[tuple[Tap, str]]:
    """The taps that a graph has, each with the name of its value there."""
    named = ((tap, next((name for name in tap.values if name in values), None)) for tap in taps)
    return [(tap, name) for tap, name in named if name is not None]
