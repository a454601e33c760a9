"""The places within a decoder where a graph and its torch model can be compared, in the order they are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from converters.onnx.weights.scaling import Scaling
from seap_export.model.families import (
    Attention,
    Convolution,
    DeltaNet,
    Experts,
    LayerInput,
    Mamba,
    Mlp,
    ModelSpec,
    SharedExpert,
    Sublayer,
)
from seap_export.model.families.family import FUSED
from seap_export.model.families.fused import fused_rows
from seap_export.model.families.sublayers import QK_NORMS

Side = Literal["input", "output", "output without bias"]
_UNSCALED = Scaling()


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
        yield from _CHANNELS[type(sublayer)](spec, index, sublayer, scaling)
        yield from _written_taps(spec, index, sublayer, scaling)
        if following is None or not following[1].beside:
            yield _residual_tap(spec, index, sublayer, following, scaling)
    yield Tap(None, "norm", ("norm.output",), (spec.family.module("norm"),), exponent=scaling.normed(spec))


def _attention_taps(spec: ModelSpec, index: int, attention: Attention, scaling: Scaling) -> Iterator[Tap]:
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
    output, last = family.module(attention.output, index), "gated" if attention.gate else "attention"
    yield Tap(index, f"self_attn.{last}", _node(f"{here}.{last}"), (output,), "input")


def _mlp_taps(spec: ModelSpec, index: int, mlp: Mlp, scaling: Scaling) -> Iterator[Tap]:
    family, here = spec.family, f"layers.{index}.{mlp.label}"
    neurons, is_fused = mlp.intermediate_size, "gate_up_proj" in family.fused
    exponents = {mlp.scalable: scaling.input(mlp.output, index)}
    for part, name in enumerate(mlp.readers):
        module = family.module("gate_up_proj" if is_fused else name, index)
        channels = slice(part * neurons, (part + 1) * neurons) if is_fused else None
        values, exponent = _node(f"{here}.{name}"), exponents.get(name, 0)
        yield Tap(index, f"mlp.{name}", values, (module,), channels=channels, exponent=exponent)
    module, exponent = family.module(mlp.output, index), scaling.input(mlp.output, index)
    activated = "gated" if mlp.is_gated else "activated"
    yield Tap(index, f"mlp.{activated}", _node(f"{here}.{activated}"), (module,), "input", exponent=exponent)


def _convolution_taps(spec: ModelSpec, index: int, convolution: Convolution, scaling: Scaling) -> Iterator[Tap]:
    family, here = spec.family, f"layers.{index}.{convolution.label}"
    width, exponent = convolution.conv_dim, scaling.input(convolution.output, index)
    for part, name in enumerate(convolution.readers):
        values, module = (f"{here}.in_proj.split.{name}",), family.module("in_proj", index)
        channels, scaled = slice(part * width, (part + 1) * width), exponent if name == convolution.scalable else 0
        yield Tap(index, f"conv.{name}", values, (module,), channels=channels, exponent=scaled)
    module = family.module(convolution.output, index)
    yield Tap(index, "conv.channels", _node(f"{here}.channels"), (module,), "input", exponent=exponent)


def _delta_net_taps(spec: ModelSpec, index: int, net: DeltaNet, scaling: Scaling) -> Iterator[Tap]:
    family, here = spec.family, f"layers.{index}.{net.label}"
    rows, numbers = fused_rows(family, spec.layers[index], net.widths()), torch.arange(net.convolved + net.channels)
    for part, projection in (("qkv", "delta_qkv_proj"), ("z", "delta_z_proj")):
        channels = tuple(numbers[rows[projection]].tolist()) if projection in rows else None
        module = family.module("delta_qkvz_proj" if projection in rows else projection, index)
        yield Tap(index, f"{net.label}.{part}", (f"{here}.split.{part}",), (module,), channels=channels)
    module = family.module(net.output, index)
    values = (f"{here}.channels.gated.output", f"{here}.channels.output")
    yield Tap(index, f"{net.label}.channels", values, (module,), "input")


def _mamba_taps(spec: ModelSpec, index: int, mamba: Mamba, scaling: Scaling) -> Iterator[Tap]:
    family, here = spec.family, f"layers.{index}.{mamba.label}"
    if not mamba.factors:  # some of which transformers applies to what the module reads
        yield Tap(index, "mamba.in_proj", _node(f"{here}.in_proj"), (family.module("mamba_in_proj", index),))
    values = (f"{here}.channels.output", f"{here}.gated.output")
    yield Tap(index, "mamba.channels", values, (family.module(mamba.output, index),), "input")


def _layer_input_taps(spec: ModelSpec, index: int, gated: LayerInput, scaling: Scaling) -> Iterator[Tap]:
    family, here = spec.family, f"layers.{index}.{gated.label}"
    (gate,) = gated.readers
    yield Tap(index, f"{gated.label}.gate", _node(f"{here}.{gate}"), (family.module(gate, index),))
    module, exponent = family.module(gated.output, index), scaling.input(gated.output, index)
    yield Tap(index, f"{gated.label}.gated", _node(f"{here}.gated"), (module,), "input", exponent=exponent)


def _no_taps(spec: ModelSpec, index: int, sublayer: Sublayer, scaling: Scaling) -> Iterator[Tap]:
    """Yields nothing: operators give only what all experts write, and transformers scales a shared one's output."""
    yield from ()


#: What each kind computes between what it reads and its output projection.
_CHANNELS: Mapping[type[Sublayer], Callable[[ModelSpec, int, Any, Scaling], Iterator[Tap]]] = {
    Attention: _attention_taps,
    Convolution: _convolution_taps,
    DeltaNet: _delta_net_taps,
    LayerInput: _layer_input_taps,
    Mamba: _mamba_taps,
    Mlp: _mlp_taps,
    Experts: _no_taps,
    SharedExpert: _no_taps,
}


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
