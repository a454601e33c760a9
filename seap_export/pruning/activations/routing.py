"""Samples of tokens at a mixture of experts, which tell what it would compute without some of its experts.

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

from seap_export.model.families import Experts
from seap_export.model.layers.batches import Batch
from seap_export.model.layers.hidden_states import HiddenStates, SublayerPass
from seap_export.model.layers.layer import DecoderLayer
from seap_export.model.layers.sublayers.experts import expert_channels, expert_outputs, router_logits, router_weights
from seap_export.model.layers.working_memory import summed_parts
from seap_export.pruning.activations.covariance import add_products, pack_symmetric
from seap_export.pruning.activations.moments import Moments

#: Tokens that are sampled at least, if there are as many, and products that are kept of a layer at most.
_FEWEST, _PRODUCTS = 1024, 1 << 24
#: A larger sample takes all experts one part in so many of what the pass takes them.
_PARTS = 4
#: Tokens that all experts compute at a time, at least; and values that they then write at most, if it is more.
_TOKENS, _VALUES = 64, 1 << 22


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

    The sample is taken before the hidden states pass. Products of channels are summed as they pass, but where the
    matrices of all experts would not fit, those of the first ones are summed before, one expert after another. They
    wait in a file in `folder`.
    """

    def __init__(self, layer: DecoderLayer, experts: Experts, hidden: HiddenStates, folder: Path) -> None:
        number, width = experts.num_experts, experts.moe_intermediate_size
        self._experts, self._sample = experts, _sample(layer, experts, hidden)
        self._tokens = sum(batch.num_tokens for batch in hidden.batches)
        self._file, self._first = folder / "moments", number - summed_parts(experts)
        with self._file.open("wb") as file:
            for total in _products(layer, experts, hidden, self._first):
                file.write(self._packed(total))
        device = hidden.batches[0].device
        self._products = torch.zeros(number - self._first, width, width, dtype=torch.float64, device=device)
        self._sum, self._squares = torch.zeros(2, number, width, dtype=torch.float64, device=device)

    def see(self, passed: SublayerPass) -> None:
        """Adds the tokens of a batch."""
        for expert, channels in enumerate(passed.channels):
            if expert >= self._first:
                add_products(self._products[expert - self._first], channels, channels)
            double = channels.double()  # whose squares are exact, so that nothing has to be shifted
            self._sum[expert] += double.sum(0)
            self._squares[expert] += double.square_().sum(0)

    def moments(self) -> Moments:
        """The moments of all channels, which are 0 where a token does not reach their expert."""
        mean, squares = ((one / self._tokens).flatten().cpu() for one in (self._sum, self._squares))
        return Moments(self._tokens, mean, squares.sub_(mean.square()).clamp_(min=0.0))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The fields of the sample, and the moments, float32 [experts, neurons (neurons + 1) / 2]."""
        sample = {name: tensor for name, tensor in vars(self._sample).items() if tensor is not None}
        with self._file.open("ab") as file:
            for total in self._products:
                file.write(self._packed(total))
        moments = np.memmap(self._file, np.float32, "c")  # which the system may read again, if memory is short
        return {**sample, "moments": torch.from_numpy(moments).view(self._experts.num_experts, -1)}

    def _packed(self, total: torch.Tensor) -> memoryview:
        """The mean of c cᵀ over all tokens as `pack_symmetric` gives it, given the sum."""
        return pack_symmetric(total.div_(self._tokens)).numpy().data

    @staticmethod
    def numbers(experts: Experts, tokens: int) -> int:
        """How many numbers `tensors` has: those of the sample, and the moments."""
        number, width = experts.num_experts, experts.moe_intermediate_size
        sampled = math.ceil(tokens / _step(experts, tokens)) * (number + number * (number + 1) // 2)
        return sampled + number * (width * (width + 1) // 2)


def _step(experts: Experts, tokens: int) -> int:
    """The step of the sample: it has one of so many tokens."""
    share = tokens * experts.experts_per_token // (_PARTS * experts.num_experts)
    sampled = min(max(_FEWEST, share), _PRODUCTS // experts.num_experts**2)
    return max(1, math.ceil(tokens / max(sampled, 1)))


def _sample(layer: DecoderLayer, experts: Experts, hidden: HiddenStates) -> RoutingSample:
    """The sample of a layer, whose mixture the hidden states have not passed yet."""
    step, number = _step(experts, sum(batch.num_tokens for batch in hidden.batches)), experts.num_experts
    rows, columns = torch.triu_indices(number, number).unbind(0)
    gain, logits, products = layer.gain(experts.output), [], []
    parts = [
        stream.index_select(0, _chosen(batch, step).to(stream.device))
        for batch, stream in zip(hidden.batches, hidden.streams, strict=True)
    ]
    for block in torch.cat(parts).split(max(_TOKENS, _VALUES // (number * layer.hidden_size))):
        written = expert_outputs(layer, experts, layer.read(experts.output, block))
        written = written if gain is None else written.mul_(gain)
        logits.append(router_logits(layer, experts, block).cpu())
        products.append((written @ written.mT)[:, rows, columns].cpu())
    bias = layer.tensor("selection_bias")
    return RoutingSample(torch.cat(logits), torch.cat(products), bias if bias is None else bias.cpu())


def _chosen(batch: Batch, step: int) -> torch.Tensor:
    """Every `step`-th token of each text, int64 among the real ones; the text alone decides which one is the first."""
    shift = batch.input_ids.sum(1, keepdim=True)
    is_chosen = (torch.arange(batch.input_ids.shape[1]) + shift) % step == 0
    return torch.nonzero(is_chosen[batch.real])[:, 0]


def _products(layer: DecoderLayer, experts: Experts, hidden: HiddenStates, number: int) -> Iterator[torch.Tensor]:
    """The sum of c cᵀ over all tokens, with c the channels of an expert, for the first ones; the upper triangles."""
    routing = [router_weights(layer, experts, stream) for stream in hidden.streams if number]
    width, device = experts.moe_intermediate_size, hidden.batches[0].device
    for expert in range(number):
        total = torch.zeros(width, width, dtype=torch.float64, device=device)
        for stream, weights in zip(hidden.streams, routing, strict=True):
            _, channels = expert_channels(layer, experts, stream, weights, expert)
            add_products(total, channels, channels)
        yield total
