"""A decoder layer in float32, made from a `ModelSpec` and tensors of the plain form, sublayer by sublayer.

Each sublayer reads the stream, computes the channels that its output projection takes in, multiplies, and writes back:
x += m N(W channels(x)), with N the norm after it, if there is one, and m its multiplier. It is named by its output
projection. Where the sum of two is normalised, what the first writes is held until the second adds its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from seap_export.model.families import (
    Attention,
    Convolution,
    DeltaNet,
    Experts,
    LayerInput,
    LayerSpec,
    Mamba,
    Mlp,
    ModelSpec,
    SharedExpert,
    Sublayer,
    names,
)
from seap_export.model.families.names import Projection
from seap_export.model.layers.batches import Batch
from seap_export.model.layers.sublayers.attention import attention_channels, lent_keys_and_values
from seap_export.model.layers.sublayers.convolution import convolution_channels
from seap_export.model.layers.sublayers.delta_net import delta_net_channels
from seap_export.model.layers.sublayers.experts import experts_pass
from seap_export.model.layers.sublayers.layer_input import layer_input_channels
from seap_export.model.layers.sublayers.mamba import mamba_channels
from seap_export.model.layers.sublayers.mlp import mlp_channels, shared_channels
from seap_export.model.layers.sublayers.norm import Norm
from seap_export.model.layers.sublayers.operands import stream_of
from seap_export.model.layers.widened import widened_product
from seap_export.model.layers.working_memory import is_widened_in_parts

_CPU = torch.device("cpu")
#: How the channels of each kind are computed, given the stream at the real tokens of a batch; the output projection
#: multiplies all of them.
_CHANNELS: Mapping[type[Sublayer], Callable[[Any, Any, torch.Tensor, Batch], torch.Tensor]] = {
    Attention: attention_channels,
    Convolution: convolution_channels,
    DeltaNet: delta_net_channels,
    LayerInput: layer_input_channels,
    Mamba: mamba_channels,
    Mlp: mlp_channels,
    SharedExpert: shared_channels,
}
#: How kinds of parts compute the channels of each, and the product of the output projection with them.
_PASSES: Mapping[type[Sublayer], Callable[[Any, Any, torch.Tensor], tuple[tuple[torch.Tensor, ...], torch.Tensor]]] = {
    Experts: experts_pass
}


class DecoderLayer:
    """One decoder layer and its weights.

    Args:
        index: Index of the layer.
        tensors: The tensors of the layer, by full name.
        only: The sublayer that is run, whose tensors are all that is converted; None: all.
    """

    def __init__(
        self,
        spec: ModelSpec,
        index: int,
        tensors: Mapping[str, torch.Tensor],
        device: torch.device = _CPU,
        *,
        only: Projection | None = None,
    ) -> None:
        self._spec, self._index, self._layer = spec, index, spec.layers[index]
        wanted = tensors if only is None else spec.sublayer_tensors(index, only)
        in_parts = {
            names.weight(projection, index)
            for sublayer in self._layer.sublayers
            if is_widened_in_parts(sublayer, spec.hidden_size)
            for projection, shape in sublayer.shapes(spec.hidden_size).items()
            if sublayer.channels in shape
        }
        on_device = {name: tensors[name].to(device) for name in wanted}
        self._tensors = {name: tensor if name in in_parts else tensor.float() for name, tensor in on_device.items()}
        self._widened: dict[Projection, tuple[slice | None, slice | None, torch.Tensor]] = {}
        self._trained: dict[Projection, tuple[torch.Tensor, ...]] = {}

    @property
    def index(self) -> int:
        return self._index

    @property
    def epsilon(self) -> float:
        return self._spec.norm.epsilon

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self._spec.hidden_size

    @property
    def inputs_of(self) -> Mapping[int, slice]:
        """The columns of hidden states with the inputs of each layer."""
        return self._spec.inputs_of

    @property
    def cached_of(self) -> Mapping[int, slice]:
        """The columns of hidden states with the keys and values of each layer that lends them."""
        return self._spec.cached_of

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """Its tensors by full name: float32, or as they are stored where a part at a time is converted."""
        return self._tensors

    @property
    def spec(self) -> LayerSpec:
        return self._layer

    def tensor(self, name: str) -> torch.Tensor | None:
        """A tensor by its name in the plain form, float32; None: the layer has none."""
        return self._tensors.get(names.tensor(name, self._index))

    def weight(self, projection: Projection) -> torch.Tensor:
        """The weight of a projection, float32 [out, in]."""
        return self._tensors[names.weight(projection, self._index)].float()

    def channels(self, output: Projection, stream: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The input of an output projection at the real tokens of a batch, [tokens, channels].

        Args:
            output: Which projection, of a sublayer that has no parts.
            stream: The hidden states of the real tokens, [tokens, width].
        """
        sublayer = self._layer.named(output)
        return _CHANNELS[type(sublayer)](self, sublayer, stream, batch)

    def channels_and_product(
        self, output: Projection, stream: torch.Tensor, batch: Batch
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """The input of an output projection, and its product.

        Args:
            stream: See `channels`.

        Returns:
            The `channels`, or those of each expert for the tokens that reach it, [tokens, neurons] each; and
            [tokens, hidden_size].
        """
        sublayer = self._layer.named(output)
        if (kind_pass := _PASSES.get(type(sublayer))) is not None:
            return kind_pass(self, sublayer, stream)
        channels = self.channels(output, stream, batch)
        return (channels,), self.linear(output, channels)

    def read(self, output: Projection, stream: torch.Tensor) -> torch.Tensor:
        """The input of a sublayer's first projections: the stream, through its norm if there is one."""
        norm = self._norm(self._layer.named(output).norm_before)
        stream = stream_of(stream, self.hidden_size)
        return stream if norm is None else norm(stream)

    def _norm(self, name: str | None) -> Norm | None:
        gain = None if name is None else self.tensor(name)
        return None if gain is None else Norm(self._spec.norm, gain, self.tensor(f"{name}_bias"))

    def linear(
        self, projection: Projection, x: torch.Tensor, rows: slice | None = None, columns: slice | None = None
    ) -> torch.Tensor:
        """The product of a projection with its input, with bias and factor, [..., out]; of a part of it, or all."""
        weight, bias = self._part(projection, rows, columns), self._tensors.get(names.bias(projection, self._index))
        bias = bias if bias is None or rows is None else bias[rows]
        multiply = functional.linear if weight.dtype == torch.float32 else widened_product
        product, factor = multiply(x, weight, bias), self._layer.factor(projection)
        return product if factor == 1.0 else product * factor

    def _part(self, projection: Projection, rows: slice | None, columns: slice | None) -> torch.Tensor:
        """A part of a weight: float32 unless it has to be converted and gradients are taken through it.

        The latest part of each projection is kept, since one expert computes many batches. Where a weight is trained,
        its parts are made together: the gradient of one by itself would be as large as the whole weight.
        """
        stored = self._tensors[names.weight(projection, self._index)]
        span, dim = (rows, 0) if columns is None else (columns, 1)
        if span is not None and stored.requires_grad and torch.is_grad_enabled():
            width = span.stop - span.start
            if projection not in self._trained:
                self._trained[projection] = stored.split(width, dim)
            return self._trained[projection][span.start // width]
        part = stored[rows or slice(None), columns or slice(None)]
        if stored.dtype == torch.float32 or torch.is_grad_enabled():
            return part
        kept = self._widened.get(projection)
        if kept is None or kept[:2] != (rows, columns):
            self._widened.pop(projection, None)  # before the next one is made
            kept = self._widened[projection] = rows, columns, part.float()
        return kept[2]

    def see(self, what: str, values: Callable[[], torch.Tensor]) -> None:
        """Does nothing: nobody looks at the values; see `Operands`."""

    def held(self, output: Projection, hidden: torch.Tensor) -> torch.Tensor | None:
        """The output of the sublayer before this one, if both are normalised together; None: they are not.

        Args:
            hidden: The hidden states before it, [tokens, width].
        """
        return None if self._layer.named(output).norm_of_sum is None else hidden[:, self._spec.held]

    def update(self, output: Projection, product: torch.Tensor, held: torch.Tensor | None = None) -> torch.Tensor:
        """The update by a sublayer, which is added to the stream or held, [tokens, hidden_size].

        Args:
            held: See `held`.
        """
        written, norm = self._written(output, product), self._norm(self._layer.named(output).norm_of_sum)
        return written if norm is None or held is None else norm(held + written)

    def _written(self, output: Projection, product: torch.Tensor) -> torch.Tensor:
        norm = self._norm(self._layer.named(output).norm_after)
        normed = product if norm is None else norm(product)
        multiplier = self._layer.named(output).multiplier
        return normed if multiplier == 1.0 else normed * multiplier

    def before(self, output: Projection, hidden: torch.Tensor) -> torch.Tensor:
        """The tensor that an update is added to, [tokens, hidden_size]: the stream, or zeros if the update is held.

        Args:
            hidden: The hidden states before it, [tokens, width].
        """
        stream = stream_of(hidden, self.hidden_size)
        return torch.zeros_like(stream) if self._layer.is_held(output) else stream

    def total(self, output: Projection, hidden: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        """The sum of `before` and the update, [tokens, hidden_size]."""
        return update if self._layer.is_held(output) else self.before(output, hidden) + update

    def scaled(self, output: Projection, total: torch.Tensor) -> torch.Tensor:
        """The stream after a sublayer, [tokens, hidden_size]: `total`, times the number of the layer if it has one."""
        scale = self.tensor(names.STREAM_SCALE) if self._layer.named(output).scales_stream else None
        return total if scale is None else total * scale

    def after(self, output: Projection, stream: torch.Tensor, total: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The hidden states behind a sublayer, [tokens, width].

        Args:
            stream: The hidden states before it.
            total: See `total`.
        """
        sublayer, start = self._layer.named(output), self._spec.held.start if self._layer.is_held(output) else 0
        parts = {start: self.scaled(output, total)}
        if isinstance(sublayer, Attention) and sublayer.lends_cache:
            lent = self.cached_of[self._index]
            parts[lent.start] = lent_keys_and_values(self, sublayer, stream, batch)
        return _joined(parts, stream)

    def gain(self, output: Projection) -> torch.Tensor | None:
        """The gains of the norms behind a sublayer, multiplied, float32 [hidden_size]; None: there is no such norm."""
        gains = [norm.gain for norm in map(self._norm, self._layer.named(output).norms_behind) if norm is not None]
        return functools.reduce(torch.mul, gains) if gains else None

    def factor(self, output: Projection, product: torch.Tensor, held: torch.Tensor | None = None) -> torch.Tensor:
        """d in `update` = d * gain * product for each token, float32 [tokens, 1]; a gain that is missing is 1.

        What is `held` adds to that.
        """
        multiplier = torch.full((len(product), 1), self._layer.named(output).multiplier, device=product.device)
        if self._layer.named(output).norm_after is not None:
            multiplier = multiplier * self._rate(product)
        return multiplier if held is None else multiplier * self._rate(held + self._written(output, product))

    def _rate(self, x: torch.Tensor) -> torch.Tensor:
        return torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon)

    def passed_on(
        self, output: Projection, product: torch.Tensor, held: torch.Tensor, change: torch.Tensor
    ) -> torch.Tensor:
        """How a small change of the held output changes the update, but for its size, [tokens, hidden_size]."""
        norm = self._norm(self._layer.named(output).norm_of_sum)
        assert norm is not None
        return norm.gain * self._rate(held + self._written(output, product)) * change


def _joined(parts: Mapping[int, torch.Tensor], hidden: torch.Tensor) -> torch.Tensor:
    """Replaces the columns of hidden states from the key of each part on by that part."""
    columns, end = list[torch.Tensor](), 0
    for start, part in parts.items():
        columns += [hidden[:, end:start], part]
        end = start + part.shape[1]
    whole = [one for one in (*columns, hidden[:, end:]) if one.shape[1]]
    return whole[0] if len(whole) == 1 else torch.cat(whole, 1)
