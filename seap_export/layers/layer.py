"""A decoder layer in float32, made from a `ModelSpec` and tensors of the plain form, in two halves.

Each half reads the stream, computes the channels that its output projection takes in, multiplies, and writes back:
x += m N(W channels(x)), with N the norm after the half, if there is one, and m the residual multiplier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

from seap_export.families import ModelSpec, names
from seap_export.families.names import Projection
from seap_export.layers.attention import attend, rms_norm
from seap_export.layers.batches import Batch
from seap_export.layers.halves import NORMS_AROUND, Half

__all__ = ["DecoderLayer"]

_CPU = torch.device("cpu")


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x, approximate="tanh")


_ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {"silu": functional.silu, "gelu_tanh": _gelu_tanh}


class DecoderLayer:
    """One layer and its weights.

    Args:
        spec: The model.
        index: Index of the layer.
        tensors: The tensors of the layer, by full name; those of one half (`half_tensors`) are enough to run it.
        device: Where it computes.
    """

    def __init__(
        self, spec: ModelSpec, index: int, tensors: Mapping[str, torch.Tensor], device: torch.device = _CPU
    ) -> None:
        self._spec, self._index = spec, index
        self._tensors = {name: tensor.to(device).float() for name, tensor in tensors.items()}
        self._activation = _ACTIVATIONS[spec.block.activation]

    @property
    def index(self) -> int:
        """Index of the layer."""
        return self._index

    def channels(self, half: Half, stream: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The input of o_proj or down_proj at the real tokens of a batch, [tokens, channels].

        Only attention needs to know which text a token belongs to; the MLP runs without padding.

        Args:
            half: Which projection.
            stream: The hidden states of the real tokens, [tokens, hidden_size].
            batch: The batch that they come from.
        """
        if half == "o_proj":
            return batch.packed(self._attended(self.read(half, batch.padded(stream)), batch))
        x = self.read(half, stream)
        return self._activation(self.linear("gate_proj", x)) * self.linear("up_proj", x)

    def read(self, half: Half, x: torch.Tensor) -> torch.Tensor:
        """The input of the half's first projections: the stream, through its norm if there is one."""
        gain = self._tensors.get(names.tensor(NORMS_AROUND[half][0], self._index))
        return x if gain is None else rms_norm(x, gain, self._spec.rms_norm_eps)

    def project(self, half: Half, channels: torch.Tensor) -> torch.Tensor:
        """The product of o_proj or down_proj with its input, [tokens, hidden_size]."""
        return self.linear(half, channels)

    def linear(self, projection: Projection, x: torch.Tensor) -> torch.Tensor:
        """The product of any projection with what it reads, and its bias."""
        weight = self._tensors[names.weight(projection, self._index)]
        return functional.linear(x, weight, self._tensors.get(names.bias(projection, self._index)))

    def update(self, half: Half, product: torch.Tensor) -> torch.Tensor:
        """What the half adds to the stream, given the product of its projection; [tokens, hidden_size]."""
        gain = self.gain(half)
        normed = product if gain is None else rms_norm(product, gain, self._spec.rms_norm_eps)
        return normed if self.multiplier == 1.0 else normed * self.multiplier

    @property
    def multiplier(self) -> float:
        """The residual multiplier."""
        return self._spec.block.residual_multiplier

    def gain(self, half: Half) -> torch.Tensor | None:
        """The gain of the norm after the half, float32 [hidden_size]; None: there is no such norm."""
        return self._tensors.get(names.tensor(NORMS_AROUND[half][1], self._index))

    def factor(self, half: Half, product: torch.Tensor) -> torch.Tensor:
        """d in `update` = d * gain * product for each token, float32 [tokens, 1]; a gain that is missing is 1."""
        multiplier = torch.full((len(product), 1), self.multiplier, device=product.device)
        if self.gain(half) is None:
            return multiplier
        return multiplier * torch.rsqrt(product.pow(2).mean(-1, keepdim=True) + self._spec.rms_norm_eps)

    def _attended(self, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        spec, layer = self._spec, self._spec.layers[self._index]

        def heads(projection: Projection) -> torch.Tensor:
            return self.linear(projection, x).unflatten(-1, (-1, spec.head_dim)).transpose(1, 2)

        norms = [self._tensors.get(names.tensor(name, self._index)) for name in ("q_norm", "k_norm")]
        return attend(
            heads("q_proj"),
            heads("k_proj"),
            heads("v_proj"),
            batch.lengths,
            layer,
            spec.block,
            None if norms[0] is None or norms[1] is None else (norms[0], norms[1]),
            spec.rms_norm_eps,
        )
