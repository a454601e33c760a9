"""Fits each layer of the shrunk model while two streams of hidden states, the dense one and the shrunk one, pass it.

At the end of each sublayer its output projection is fitted so that the shrunk stream returns to the dense
one: its target is the difference of the two. So a layer also corrects the errors of the layers before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch.nn import functional

from seap_export.model.families import Sublayer, names
from seap_export.model.families.names import Projection
from seap_export.model.layers.hidden_states import HiddenStates, SublayerOutput
from seap_export.model.layers.layer import DecoderLayer
from seap_export.model.sources.source import Source
from seap_export.pruning.activations.covariance import CovarianceAccumulator
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.shrink.kinds import PartsFit, parts_fit
from seap_export.pruning.shrink.layer import shrink_layer, with_all_biases
from seap_export.pruning.shrink.refit import OutputFit, refit
from seap_export.pruning.shrink.target import refit_target


class DenseStates(Protocol):
    """The dense model's hidden states, computed or recorded."""

    def advance(self, layer: DecoderLayer, output: Projection, visit: Callable[[SublayerOutput], None]) -> None:
        """Passes one sublayer, and shows the visitor each batch."""
        ...


class RefitStreams:
    """Shrinks layers one after another, and advances both streams through them.

    Args:
        weights: The weight of each token in the fits, float32 [tokens] for each batch.
        room: Bytes that the inputs of one projection may take.
    """

    def __init__(
        self,
        source: Source,
        plan: Plan,
        dense: DenseStates,
        shrunk: HiddenStates,
        weights: Sequence[torch.Tensor],
        *,
        tokens: float,
        room: int,
        device: torch.device,
    ) -> None:
        self._source, self._plan, self._dense, self._shrunk = source, plan, dense, shrunk
        self._weights, self._tokens, self._room, self._device = weights, tokens, room, device
        self._spec = plan.shrunk_spec(source.spec)
        self._fitted = plan.compensated(source.spec)

    @torch.no_grad()
    def layer(self, index: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Shrinks and fits one layer, and advances both streams through it.

        The tensors are the dense layer's; large ones are taken out as soon as they are not needed any more.
        """
        shrunk = shrink_layer(tensors, self._source.spec, index, self._plan.layers[index])
        shrunk = with_all_biases(shrunk, self._spec, index)
        for sublayer in self._spec.layers[index].sublayers:
            output, make = sublayer.output, parts_fit(sublayer)
            if output in self._fitted[index] and make is not None:
                shrunk |= self._fit_parts(index, sublayer, make, tensors, shrunk)
            elif output in self._fitted[index]:
                shrunk |= self._fit(index, output, tensors, shrunk)
            else:  # nothing is cut so far, so the streams are still the same
                layer = DecoderLayer(self._source.spec, index, tensors, self._device, only=output)
                self._dense.advance(layer, output, partial(self._add_to_shrunk, layer, output))
        return shrunk

    def _add_to_shrunk(self, layer: DecoderLayer, output: Projection, passed: SublayerOutput) -> None:
        self._shrunk.add(layer, output, passed.batch_index, passed.update)

    def _fit(
        self, index: int, output: Projection, dense: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Fits one projection, advances both streams past it and returns its new tensors."""
        layer = DecoderLayer(self._spec, index, tensors, self._device, only=output)
        inputs = Inputs(layer, output, self._shrunk, self._room)
        exact = DecoderLayer(self._source.spec, index, dense, self._device, only=output)
        sums = inputs.sums(self._dense, exact, self._weights)
        del exact  # before matrices over the inputs are made
        fit = self._fit_to(sums, output, tensors[names.weight(output, index)])
        fitted = {names.weight(output, index): fit.weight}
        if fit.bias is not None:
            fitted[names.bias(output, index)] = fit.bias
        # what is stored is what the later layers correct
        stored = {name: tensor.to(self._source.dtype_of(name)) for name, tensor in fitted.items()}
        del fit, fitted
        inputs.advance([tensor.float() for tensor in stored.values()])
        return {name: tensor.cpu() for name, tensor in stored.items()}

    def _fit_parts(
        self,
        index: int,
        sublayer: Sublayer,
        make: Callable[..., PartsFit],
        dense: dict[str, torch.Tensor],
        tensors: Mapping[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Does as `_fit` for a sublayer of parts; its projections are taken out of `dense`."""
        output, name = sublayer.output, names.weight(sublayer.output, index)
        dtype = self._source.dtype_of(name)
        layer = DecoderLayer(self._spec, index, tensors, self._device, only=output)
        fit = make(sublayer, layer, self._shrunk, self._weights)
        exact = DecoderLayer(self._source.spec, index, dense, self._device, only=output)
        for projection in sublayer.projections:
            del dense[names.weight(projection, index)]
        self._dense.advance(exact, output, partial(fit.add, exact))
        del exact  # before matrices over the inputs are made
        fitted = fit.fitted(tensors[name], self._plan.settings.ridge, lambda weight, _: weight.to(dtype))
        stored = {name: fitted.to(dtype)}
        self._shrunk.advance(DecoderLayer(self._spec, index, {**tensors, **stored}, self._device, only=output), output)
        return {name: tensor.cpu() for name, tensor in stored.items()}

    def _fit_to(self, sums: CovarianceAccumulator, output: Projection, weight: torch.Tensor) -> OutputFit:
        mean, target_mean = sums.mean(), sums.target_mean()  # each sum is released as soon as it is used
        return refit(
            weight.to(self._device).double(),
            mean,
            sums.covariance(),
            target_mean,
            sums.cross_covariance(),
            ridge=self._plan.settings.ridge,
            tokens=self._tokens,
            intercept=self._plan.has_intercept(output, self._spec.family),
        )


class Inputs:
    """A projection's inputs in the changed model, before the fit and after it: kept if they fit, or made again."""

    def __init__(self, layer: DecoderLayer, output: Projection, hidden: HiddenStates, room: int) -> None:
        self._layer, self._output, self._hidden, self._room = layer, output, hidden, room
        self._kept: dict[int, torch.Tensor] = {}

    def sums(self, dense: DenseStates, exact: DecoderLayer, weights: Sequence[torch.Tensor]) -> CovarianceAccumulator:
        """Advances the unchanged model, and sums the inputs and what they are fitted to.

        Args:
            weights: The weight of each token, float32 [tokens] for each batch.
        """
        sums = CovarianceAccumulator()

        def add(passed: SublayerOutput) -> None:
            stream = self._hidden.streams[passed.batch_index]
            targets, factors = refit_target(exact, self._output, passed, stream)
            factors = weights[passed.batch_index].to(stream.device) * factors
            sums.update(self._make(passed.batch_index), targets, factors)

        dense.advance(exact, self._output, add)
        return sums

    def advance(self, operands: Sequence[torch.Tensor]) -> None:
        """Advances the changed model with the fitted weight, and bias if there is one; the inputs are let go."""
        for batch_index in range(len(self._hidden.batches)):
            product = functional.linear(self._take(batch_index), *operands)
            held = self._layer.held(self._output, self._hidden.streams[batch_index])
            update = self._layer.update(self._output, product, held)
            self._hidden.add(self._layer, self._output, batch_index, update)

    def _make(self, batch_index: int) -> torch.Tensor:
        """Computes the inputs in one batch, [tokens, channels], and keeps them if they fit."""
        channels = self._channels(batch_index)
        if channels.nbytes <= self._room:
            self._room -= channels.nbytes
            self._kept[batch_index] = channels
        return channels

    def _take(self, batch_index: int) -> torch.Tensor:
        """The inputs in one batch, [tokens, channels], kept or computed again; they are let go."""
        kept = self._kept.pop(batch_index, None)
        return self._channels(batch_index) if kept is None else kept

    def _channels(self, batch_index: int) -> torch.Tensor:
        stream = self._hidden.read(self._layer, self._output, batch_index)
        return self._layer.channels(self._output, stream, self._hidden.batches[batch_index])
