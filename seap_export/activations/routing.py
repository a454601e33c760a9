"""What a mixture of experts would compute without some: samples of tokens, and what every expert writes for them.

Without an expert its tokens go to others. So what is lost is known only if all experts have computed a token. With y_e
what an expert writes and d_e the change of its weight, the output changes by the sum of d_e y_e, whose square is
dᵀ G d with the products G of the y_e: all that has to be kept of a token is G, and the router's logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from seap_export.activations.covariance import pack_symmetric
from seap_export.families import Experts
from seap_export.layers.hidden_states import HiddenStates, SublayerPass
from seap_export.layers.layer import DecoderLayer
from seap_export.layers.sublayers.experts import expert_channels, expert_outputs, router_logits, router_weights

__all__ = ["RoutingObserver", "RoutingSample"]

#: Products that are kept of a layer, and tokens that are computed at a time.
_PRODUCTS, _TOKENS = 1 << 24, 64
#: Rows of the moments that are computed at a time.
_ROWS = 4096


@dataclass(frozen=True)
class RoutingSample:
    """Some tokens at a mixture of experts.

    Attributes:
        logits: The router's product, float32 [tokens, experts].
        products: The products of what any two experts write, float32 [tokens, experts (experts + 1) / 2]: the upper
            triangles, row by row.
        selection_bias: The bias that the choice of experts goes by, float32 [experts]; None: there is none.
    """

    logits: torch.Tensor
    products: torch.Tensor
    selection_bias: torch.Tensor | None = None

    def gram(self) -> torch.Tensor:
        """The products as matrices, float64 [tokens, experts, experts]."""
        number = self.logits.shape[1]
        rows, columns = torch.triu_indices(number, number).unbind(0)
        gram = torch.zeros(len(self.logits), number, number, dtype=torch.float64)
        gram[:, rows, columns] = gram[:, columns, rows] = self.products.double()
        return gram


class RoutingObserver:
    """The sample of a mixture of experts, and the moments of each expert's channels.

    They are taken before the hidden states pass, one expert after another, and wait in a file in `folder`.
    """

    def __init__(self, layer: DecoderLayer, experts: Experts, hidden: HiddenStates, folder: Path) -> None:
        self._sample, self._number = _sample(layer, experts, hidden), experts.num_experts
        self._file = folder / "moments"
        with self._file.open("wb") as file:
            for packed in _moments(layer, experts, hidden):
                file.write(packed.numpy().data)

    def see(self, passed: SublayerPass) -> None:
        """Nothing: see `_sample`."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """The fields of the sample, and the moments, float32 [experts, neurons (neurons + 1) / 2]."""
        sample = {name: tensor for name, tensor in vars(self._sample).items() if tensor is not None}
        moments = np.memmap(self._file, np.float32, "c")  # which the system may read again, if memory is short
        return {**sample, "moments": torch.from_numpy(moments).view(self._number, -1)}

    @staticmethod
    def numbers(experts: Experts, tokens: int) -> int:
        """Those of as many tokens as 2^24 products allow, evenly spread, and the moments."""
        number, width = experts.num_experts, experts.moe_intermediate_size
        sampled = math.ceil(tokens / _step(experts, tokens)) * (number + number * (number + 1) // 2)
        return sampled + number * (width * (width + 1) // 2)


def _step(experts: Experts, tokens: int) -> int:
    return max(1, math.ceil(tokens * experts.num_experts**2 / _PRODUCTS))


def _sample(layer: DecoderLayer, experts: Experts, hidden: HiddenStates) -> RoutingSample:
    """The sample of a layer, whose mixture the hidden states have not passed yet."""
    step, passed = _step(experts, sum(batch.num_tokens for batch in hidden.batches)), 0
    rows, columns = torch.triu_indices(experts.num_experts, experts.num_experts).unbind(0)
    gain, logits, products = layer.gain(experts.output), [], []
    for stream in hidden.streams:
        first = -passed % step
        passed += len(stream)
        blocks = stream[first::step].split(_TOKENS)
        read = [layer.read(experts.output, block) for block in blocks]
        for block, written in zip(blocks, expert_outputs(layer, experts, read), strict=True):
            written = written.transpose(0, 1)
            written = written if gain is None else written * gain
            gram = written @ written.mT
            logits.append(router_logits(layer, experts, block).cpu())
            products.append(gram[:, rows, columns].cpu())
    bias = layer.tensor("selection_bias")
    return RoutingSample(torch.cat(logits), torch.cat(products), bias if bias is None else bias.cpu())


def _moments(layer: DecoderLayer, experts: Experts, hidden: HiddenStates) -> Iterator[torch.Tensor]:
    """The mean of c cᵀ over all tokens as `pack_symmetric` gives it, with c the channels of each expert in turn."""
    routing = [router_weights(layer, experts, stream) for stream in hidden.streams]
    tokens, width = sum(map(len, routing)), experts.moe_intermediate_size
    total = torch.empty(width, width, dtype=torch.float64, device=routing[0].device)  # of wide experts, large
    for expert in range(experts.num_experts):
        total.zero_()
        for stream, weights in zip(hidden.streams, routing, strict=True):
            x = layer.read(experts.output, stream)
            _, channels = expert_channels(layer, experts, x, weights, expert)
            for rows in range(0, width, _ROWS):
                total[rows : rows + _ROWS] += channels[:, rows : rows + _ROWS].T @ channels
        yield pack_symmetric(total.div_(tokens))
