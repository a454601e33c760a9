"""The places within a decoder where a graph and its torch model can be compared, in the order they are computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from converters.onnx.weights.scaling import Scaling
from seap_export.families import ModelSpec
from seap_export.families.names import QKV, Norm, Projection
from seap_export.layers.halves import NORMS_AROUND, READERS, Half

__all__ = ["Tap", "decoder_taps", "tapped"]

Side = Literal["input", "output", "output without bias"]
_UNSCALED = Scaling()


@dataclass(frozen=True)
class Tap:
    """One place.

    Attributes:
        layer: Index of the layer; None: before or after all layers.
        sublayer: What computes it, by its name in the plain form; `residual` is the stream after attention or MLP.
        values: Names that the value may have in a graph; the first one found is used.
        modules: torch modules whose results, concatenated, are this value.
        side: Whether the modules' inputs or outputs are meant.
        channels: The channels of a module that are this value; None: all.
        factor: What the modules' results are multiplied by.
        exponent: The value in the graph is 2^-exponent times that.
    """

    layer: int | None
    sublayer: str
    values: tuple[str, ...]
    modules: tuple[str, ...]
    side: Side = "output"
    channels: slice | None = None
    factor: float = 1.0
    exponent: int = 0

    @property
    def name(self) -> str:
        """The name in reports."""
        return self.sublayer if self.layer is None else f"layers.{self.layer}.{self.sublayer}"


def decoder_taps(spec: ModelSpec, scaling: Scaling = _UNSCALED) -> Iterator[Tap]:
    """All places of a model, from the embedding to the last norm."""
    embedded, reader = ("embed_tokens.multiplied.output", "embed_tokens.output"), _reader(spec, 0, "o_proj")
    yield Tap(None, "embed_tokens", embedded, (reader,), "input", exponent=scaling.stream)
    for index in range(len(spec.layers)):
        yield from _attention_taps(spec, index, scaling)
        yield from _mlp_taps(spec, index, scaling)
    yield Tap(None, "norm", ("norm.output",), (spec.family.module("norm"),), exponent=scaling.normed(spec))


def _attention_taps(spec: ModelSpec, index: int, scaling: Scaling) -> Iterator[Tap]:
    family, here = spec.family, f"layers.{index}.self_attn"
    yield from _norm_taps(spec, index, "input_layernorm")
    projections = ("qkv_proj",) if "qkv_proj" in family.fused else QKV
    modules = tuple(family.module(name, index) for name in projections)
    yield Tap(index, "self_attn.qkv_proj", _node(f"{here}.qkv_proj"), modules)
    for name in ("q_norm", "k_norm") if spec.block.qk_norm is not None else ():
        yield Tap(index, f"self_attn.{name}", _node(f"{here}.{name}.join"), (family.module(name, index),))
    output = family.module("o_proj", index)
    yield Tap(index, "self_attn.attention", _node(f"{here}.attention"), (output,), "input")
    yield from _written_taps(spec, index, "o_proj", "self_attn", scaling)
    values = _residual(f"layers.{index}.post_attention_layernorm", here)
    reader = _reader(spec, index, "down_proj")
    yield Tap(index, "self_attn.residual", values, (reader,), "input", exponent=scaling.stream)
    yield from _norm_taps(spec, index, "post_attention_layernorm")


def _mlp_taps(spec: ModelSpec, index: int, scaling: Scaling) -> Iterator[Tap]:
    family, here = spec.family, f"layers.{index}.mlp"
    exponent = scaling.input("down_proj", index)
    neurons = spec.layers[index].intermediate_size
    is_fused = "gate_up_proj" in family.fused
    parts: tuple[tuple[Projection, int, int], ...] = (("gate_proj", 0, 0), ("up_proj", neurons, exponent))
    for name, start, exponent in parts:
        module = family.module("gate_up_proj" if is_fused else name, index)
        channels = slice(start, start + neurons) if is_fused else None
        yield Tap(index, f"mlp.{name}", _node(f"{here}.{name}"), (module,), channels=channels, exponent=exponent)
    module = family.module("down_proj", index)
    yield Tap(index, "mlp.gated", _node(f"{here}.gated"), (module,), "input", exponent=exponent)
    yield from _written_taps(spec, index, "down_proj", "mlp", scaling)
    is_last = index == len(spec.layers) - 1
    norm = "norm" if is_last else f"layers.{index + 1}.input_layernorm"
    reader = family.module("norm") if is_last else _reader(spec, index + 1, "o_proj")
    yield Tap(index, "mlp.residual", _residual(norm, here), (reader,), "input", exponent=scaling.stream)


def _norm_taps(spec: ModelSpec, index: int, norm: Norm) -> Iterator[Tap]:
    if norm in spec.block.norms:
        yield Tap(index, norm, (f"layers.{index}.{norm}.output",), (spec.family.module(norm, index),))


def _written_taps(spec: ModelSpec, index: int, half: Half, name: str, scaling: Scaling) -> Iterator[Tap]:
    """What becomes of a half's product until it is added to the stream."""
    here, module = f"layers.{index}.{name}", spec.family.module(half, index)
    product, exponent = f"{here}.{half}.output", scaling.output(spec, half, index)
    yield Tap(index, f"{name}.{half}", (product,), (module,), "output without bias", exponent=exponent)
    norm = NORMS_AROUND[half][1]
    if norm in spec.block.norms:
        module = spec.family.module(norm, index)
        yield Tap(index, norm, _node(f"layers.{index}.{norm}"), (module,), exponent=scaling.stream)
    factor = spec.block.residual_multiplier
    if factor != 1.0:
        values = _node(f"{here}.multiplied")
        yield Tap(index, f"{name}.multiplied", values, (module,), factor=factor, exponent=scaling.stream)


def _reader(spec: ModelSpec, index: int, half: Half) -> str:
    """The torch module that reads the stream at the start of a half: its norm, or its first projection."""
    norm, fused = NORMS_AROUND[half][0], "qkv_proj" if half == "o_proj" else "gate_up_proj"
    reader = norm if norm in spec.block.norms else fused if fused in spec.family.fused else READERS[half][0]
    return spec.family.module(reader, index)


def _node(name: str) -> tuple[str, ...]:
    """A product, with its bias if a separate node adds it."""
    return f"{name}.bias_add.output", f"{name}.output"


def _residual(norm: str, before: str) -> tuple[str, ...]:
    """The stream after a half: an output of the fused norm that follows, or a sum of its own."""
    return f"{norm}.residual", f"{norm}.residual.output", f"{before}.residual.output"


def tapped(taps: Iterable[Tap], values: frozenset[str]) -> list[tuple[Tap, str]]:
    """The taps that a graph has, each with the name of its value there."""
    named = ((tap, next((name for name in tap.values if name in values), None)) for tap in taps)
    return [(tap, name) for tap, name in named if name is not None]
