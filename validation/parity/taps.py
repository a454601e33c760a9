"""The places within a decoder where a graph and its torch model can be compared, in the order they are computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from converters.onnx.weights.scaling import Scaling
from seap_export.model.families import Attention, Experts, Mlp, ModelSpec, SharedExpert, Sublayer
from seap_export.model.families.family import FUSED
from seap_export.model.families.fused import fused_rows
from seap_export.model.families.sublayers import QK_NORMS

Side = Literal["input", "output", "output without bias"]
_UNSCALED = Scaling()
#: What output projections read in graphs; of several names that a sublayer has, the first one.
_READ = ("channels.gated", "channels", "gated", "activated", "attention")


@dataclass(frozen=True)
class Tap:
    """A place within a decoder: where its value is in a graph, and where in torch.

    Attributes:
        layer: Index of the layer; None: before or after all layers.
        sublayer: The name, in the plain form, of what computes the value; `residual` is the stream after it.
        values: Names that the value may have in a graph; the first one found is used.
        channels: The channels of a module that are this value, in its order; None: all.
    """

    layer: int | None
    sublayer: str
    values: tuple[str, ...]
    modules: tuple[str, ...]
    side: Side = "output"
    channels: slice | tuple[int, ...] | None = None
    factor: float = 1.0
    exponent: int = 0

    @property
    def name(self) -> str:
        """The name in reports, such as `layers.0.mlp.gate_proj`."""
        return self.sublayer if self.layer is None else f"layers.{self.layer}.{self.sublayer}"


def decoder_taps(spec: ModelSpec, scaling: Scaling = _UNSCALED) -> Iterator[Tap]:
    """Yields the taps of a model, from the embedding to the last norm."""
    sublayers = [(index, sublayer) for index, layer in enumerate(spec.layers) for sublayer in layer.sublayers]
    embedded = ("embed_tokens.at_positions.output", "embed_tokens.multiplied.output", "embed_tokens.output")
    yield Tap(None, "embed_tokens", embedded, (_reader(spec, *sublayers[0]),), "input", exponent=scaling.stream)
    for (index, sublayer), following in zip(sublayers, [*sublayers[1:], None], strict=True):
        yield from _norm_taps(spec, index, sublayer)
        if isinstance(sublayer, Attention):
            yield from _attention_taps(spec, index, sublayer)
        if isinstance(sublayer, Mlp):
            yield from _mlp_taps(spec, index, sublayer, scaling)
        # Operators give only what all experts write, and transformers scales a shared one's output.
        if not isinstance(sublayer, Experts | SharedExpert):
            yield _read_tap(spec, index, sublayer, scaling)
        yield from _written_taps(spec, index, sublayer, scaling)
        if following is None or not following[1].beside:
            yield _residual_tap(spec, index, sublayer, following, scaling)
    yield Tap(None, "norm", ("norm.output",), (spec.family.module("norm"),), exponent=scaling.normed(spec))


def _attention_taps(spec: ModelSpec, index: int, attention: Attention) -> Iterator[Tap]:
    """The projections that attention reads, and the norms of heads."""
    family, here = spec.family, f"layers.{index}.{attention.label}"
    if not attention.gate and not attention.factors:  # whose rows stand among those of the queries, or on inputs
        projections = ("qkv_proj",) if "qkv_proj" in family.fused else attention.readers
        modules = tuple(family.module(name, index) for name in projections)
        rows = fused_rows(family, spec.layers[index], attention.widths())
        fused = (
            torch.arange(sum(attention.widths().values()))[rows[name]] for name in attention.readers if name in rows
        )
        channels = tuple(channel for part in fused for channel in part.tolist()) or None
        yield Tap(index, "self_attn.qkv_proj", _node(f"{here}.qkv_proj"), modules, channels=channels)
    for name in attention.inner_norms():
        is_whole = attention.qk_norm == "over_all_heads" and name in QK_NORMS
        node = f"{here}.{name}" if is_whole else f"{here}.{name}.join"
        yield Tap(index, f"self_attn.{name}", _node(node), (family.module(name, index),))


def _mlp_taps(spec: ModelSpec, index: int, mlp: Mlp, scaling: Scaling) -> Iterator[Tap]:
    """The projections that an MLP reads."""
    neurons, is_fused = mlp.intermediate_size, "gate_up_proj" in spec.family.fused
    for part, name in enumerate(mlp.readers):
        module = spec.family.module("gate_up_proj" if is_fused else name, index)
        channels = slice(part * neurons, (part + 1) * neurons) if is_fused else None
        exponent = scaling.input(mlp.output, index) if name == mlp.scalable else 0
        values = _node(f"layers.{index}.{mlp.label}.{name}")
        yield Tap(index, f"mlp.{name}", values, (module,), channels=channels, exponent=exponent)


def _read_tap(spec: ModelSpec, index: int, sublayer: Sublayer, scaling: Scaling) -> Tap:
    """What the output projection of a sublayer reads, by the name that this kind has for it in graphs."""
    output, here = sublayer.output, f"layers.{index}.{sublayer.label}"
    values = tuple(value for name in _READ for value in _node(f"{here}.{name}"))
    name = f"{sublayer.label}.{'attention' if isinstance(sublayer, Attention) else 'channels'}"
    return Tap(
        index, name, values, (spec.family.module(output, index),), "input", exponent=scaling.input(output, index)
    )


def _norm_taps(spec: ModelSpec, index: int, sublayer: Sublayer) -> Iterator[Tap]:
    """The norm before a sublayer, unless one before reads through it, too."""
    norm = sublayer.norm_before
    first = next(other for other in spec.layers[index].sublayers if other.norm_before == norm)
    if norm is not None and first is sublayer:
        yield Tap(index, norm, (f"layers.{index}.{norm}.output",), (spec.family.module(norm, index),))


def _written_taps(spec: ModelSpec, index: int, sublayer: Sublayer, scaling: Scaling) -> Iterator[Tap]:
    """Yields the taps between a sublayer's output projection and the stream: product, norms behind it, multiplier."""
    output, label = sublayer.output, sublayer.label
    if isinstance(sublayer, SharedExpert):
        return
    here, module = f"layers.{index}.{label}", _writer(spec, index, sublayer)
    product, exponent = f"{here}.{output}.output", scaling.output(spec, output, index)
    yield Tap(index, f"{label}.{output}", (product,), (module,), "output without bias", exponent=exponent)
    for norm in sublayer.norms_behind:
        module = spec.family.module(norm, index)
        yield Tap(index, norm, _node(f"layers.{index}.{norm}"), (module,), exponent=scaling.stream)
    factor = sublayer.multiplier
    if factor != 1.0:
        values = _node(f"{here}.multiplied")
        yield Tap(index, f"{label}.multiplied", values, (module,), factor=factor, exponent=scaling.stream)


def _residual_tap(
    spec: ModelSpec, index: int, sublayer: Sublayer, following: tuple[int, Sublayer] | None, scaling: Scaling
) -> Tap:
    """The stream after a sublayer, as what follows reads it."""
    if following is None:
        norm, reader = "norm", spec.family.module("norm")
    else:
        norm, reader = f"layers.{following[0]}.{following[1].norm_before}", _reader(spec, *following)
    scaled = (f"layers.{index}.stream_scaled.output",) if sublayer.scales_stream else ()
    values = (*scaled, *_residual(norm, f"layers.{index}.{sublayer.label}"))
    return Tap(index, f"{sublayer.label}.residual", values, (reader,), "input", exponent=scaling.stream)


def _reader(spec: ModelSpec, index: int, sublayer: Sublayer) -> str:
    """The torch module that reads the stream at the start of a sublayer: its norm, or its first projection."""
    first = sublayer.readers[0]
    fused = next((name for name in spec.family.fused if first in FUSED[name]), first)
    return spec.family.module(sublayer.norm_before or fused, index)


def _writer(spec: ModelSpec, index: int, sublayer: Sublayer) -> str:
    """The torch module that gives the product of a sublayer's output projection."""
    rules = spec.family.experts
    if rules is not None and isinstance(sublayer, Experts):
        return spec.family.names["layer"].format(layer=index) + rules.path("experts")
    return spec.family.module(sublayer.output, index)


def _node(name: str) -> tuple[str, ...]:
    """The names that a product may have in a graph, first the one with its bias if a separate node adds that."""
    return f"{name}.bias_add.output", f"{name}.output"


def _residual(norm: str, before: str) -> tuple[str, ...]:
    """The names of the stream after a sublayer: an output of the fused norm that follows, or a sum of its own."""
    return f"{norm}.residual", f"{norm}.residual.output", f"{before}.residual.output"


def tapped(taps: Iterable[Tap], values: frozenset[str]) -> list[tuple[Tap, str]]:
    """The taps that a graph has, each with the name of its value there."""
    named = ((tap, next((name for name in tap.values if name in values), None)) for tap in taps)
    return [(tap, name) for tap, name in named if name is not None]
