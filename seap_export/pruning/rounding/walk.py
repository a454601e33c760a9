"""Rounds a model layer by layer, each fitted to the real outputs of the rounded layers before it.

Two streams of hidden states go through the layers side by side: that of the model in floats, and that of the rounded
model so far. A projection first gets new weights by least squares, with a ridge towards its own (`shrink.refit`): with
the rounded model's inputs, its outputs should be those of the model in floats (Li et al. 2025, arXiv 2504.02692), or,
at the end of a sublayer, bring the stream back to the one in floats (`shrink.target`). These weights are then rounded,
and a bias, which is not, takes up the mean of what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from seap_export.model.families import Sublayer, names
from seap_export.model.families.names import Projection
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.embedding import Embedding
from seap_export.model.layers.hidden_states import HiddenStates, output_stream
from seap_export.model.layers.layer import DecoderLayer
from seap_export.model.sources.source import Source
from seap_export.pruning.activations.covariance import CovarianceAccumulator
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.rounding.columns import round_columns, table_metric
from seap_export.pruning.rounding.folding import folded_channels, folded_norm
from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.shrink.expert_refit import Moment
from seap_export.pruning.shrink.kinds import PartsFit, parts_fit
from seap_export.pruning.shrink.refit import refit
from seap_export.pruning.shrink.refit_streams import Inputs
from seap_export.pruning.shrink.sequential import SideBySide

#: Strength of the ridge of each fit, as in the default recipe.
_RIDGE = 5.0

Tensors = Mapping[str, torch.Tensor]


class RoundedLayers(SideBySide):
    """The model in floats and the rounded one."""

    def __init__(
        self,
        source: Source,
        statistics: TaskMixture,
        texts: Sequence[tuple[Sequence[int], float]],
        grid: BlockQuantization,
        folder: Path,
        compute: Compute,
    ) -> None:
        super().__init__(source, ("floats", "rounded"), statistics, texts, folder, compute)
        self._spec, self._how, self._device = source.spec, grid, compute.device
        self._tokens = statistics.effective_tokens
        self._floats, self._rounded = self._hidden

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of the tables outside of the layers that are rounded, as in `Source.read_outer`."""
        both = ("embed_tokens",) if self._spec.tie_word_embeddings else ("embed_tokens", "lm_head")
        return both if self._how.takes_table(self._spec.hidden_size) else ()

    @torch.no_grad()
    def outer(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The rounded `tables`, float32 on the CPU.

        The rows of the LM head are rounded for what they read, the last norm of the model in floats, which goes
        through all layers for this; for others, see `table_metric`.
        """
        if not self.tables:
            return
        head, is_tied = self._last_moment(), self._spec.tie_word_embeddings
        for name in self.tables:
            read = head if is_tied or name == "lm_head" else None
            metric = table_metric(read, len(head), is_embedding=name == "embed_tokens").to(self._device)
            yield name, self._table(names.tensor(name), self._source.read_outer(name), metric)

    def _table(self, name: str, table: torch.Tensor, metric: torch.Tensor) -> torch.Tensor:
        """A rounded table, float32 on the CPU; its parts, if it has some, are rounded one by one."""
        if not (parts := self._how.parts(name)):
            return round_columns(table, metric, self._how.of(name)).cpu()
        rounded = torch.empty(table.shape)
        for part in parts:
            rounded[part.rows] = round_columns(table[part.rows], metric.clone(), self._how.of(part.name)).cpu()
        return rounded

    def layers(self, first: int, embedding: Embedding) -> Iterator[dict[str, torch.Tensor]]:
        """Yields the tensors of each rounded layer from the first one on, by full name; what is rounded is float32."""
        return self._walk(first, lambda: [self._source.read_embedding(), embedding], self._layer)

    def _last_moment(self) -> torch.Tensor:
        """E[x xᵀ] of what the LM head multiplies in the model in floats, float64 [hidden_size, hidden_size]."""
        HiddenStates.embedded(self._spec, self._source.read_embedding(), self._floats.batches, self._floats.streams)
        for index in range(len(self._spec.layers)):
            tensors = self._source.read_layer(index)
            for output in self._spec.layers[index].outputs:
                layer = DecoderLayer(self._spec, index, tensors, self._device, only=output)
                self._floats.advance(layer, output)
        norm, sums = self._source.read_norm(), CovarianceAccumulator()
        for stream, weights in zip(self._floats.streams, self._weights, strict=True):
            sums.update(output_stream(self._spec, norm, stream), weights=weights)
        mean = sums.mean()
        return sums.covariance().addr_(mean, mean)

    @torch.no_grad()
    def _layer(self, index: int) -> dict[str, torch.Tensor]:
        """Rounds one layer, and advances both streams through it."""
        tensors = dict(self._source.read_layer(index))
        rounded, norms = dict(tensors), set[str | None]()
        for sublayer in self._spec.layers[index].sublayers:
            output = sublayer.output
            if self._how.rows:
                folded = self._folded(index, sublayer, tensors, norms)
                tensors |= folded
                rounded |= folded
            exact = DecoderLayer(self._spec, index, tensors, self._device, only=output)
            rounded |= self._readers(index, output, exact, tensors)
            layer = DecoderLayer(self._spec, index, rounded, self._device, only=output)
            if (make := parts_fit(sublayer)) is not None:
                rounded |= self._parts(index, sublayer, make, exact, layer, rounded)
            else:
                rounded |= self._output(index, output, exact, layer, tensors)
            del exact, layer  # before the next sublayer is converted
        return rounded

    def _folded(
        self, index: int, sublayer: Sublayer, tensors: Tensors, norms: set[str | None]
    ) -> dict[str, torch.Tensor]:
        """The tensors of a sublayer that differ once factors are folded into them; those of `norms` have theirs."""
        output = sublayer.output
        exact = DecoderLayer(self._spec, index, tensors, self._device, only=output)
        largest: list[torch.Tensor] = []
        for batch_index, batch in enumerate(self._floats.batches):
            stream = self._floats.read(exact, output, batch_index)
            found = [exact.read(output, stream)]
            if sublayer.channel_rows is not None and sublayer.blocks == 1:
                found.append(exact.channels(output, stream, batch))
            most = [values.abs().amax(0).cpu() for values in found]
            largest = [torch.maximum(*pair) for pair in zip(largest, most, strict=True)] if largest else most
        folded = folded_channels(index, sublayer, tensors, largest[1]) if len(largest) > 1 else {}
        if sublayer.norm_before not in norms:
            norms.add(sublayer.norm_before)
            folded |= folded_norm(self._spec, index, sublayer, {**tensors, **folded}, largest[0])
        return folded

    def _readers(
        self, index: int, output: Projection, exact: DecoderLayer, tensors: Tensors
    ) -> dict[str, torch.Tensor]:
        """Rounds the projections at the start of a sublayer, which share their input, so that they give the same."""
        sums = CovarianceAccumulator()
        for batch_index, weights in enumerate(self._weights):
            inputs, targets = (
                exact.read(output, hidden.read(exact, output, batch_index)) for hidden in (self._rounded, self._floats)
            )
            sums.update(inputs, targets, weights)
        mean, float_mean = sums.mean(), sums.target_mean()
        covariance, cross = sums.covariance(), sums.cross_covariance()
        tensors_rounded: dict[str, torch.Tensor] = {}
        for projections in self._together(index, output):
            weight, bias = self._operands(projections, index, tensors)
            target = weight @ float_mean
            tensors_rounded |= self._rounded_projections(
                projections,
                index,
                (weight, bias),
                mean,
                covariance,
                target if bias is None else target + bias,
                weight @ cross,
            )
        return tensors_rounded

    def _together(self, index: int, output: Projection) -> list[list[Projection]]:
        """The readers of a sublayer that are rounded, in groups of one grid that all have biases or none.

        Rows are fitted and rounded one by one, so that those of several matrices may be rows of one.
        """
        sublayer, groups = self._spec.layers[index].named(output), dict[object, list[Projection]]()
        rounded = sublayer.rounded(self._spec.hidden_size, self._how.block_size)
        for projection in sublayer.readers:
            if projection in rounded:
                kind = self._how.of(names.weight(projection, index)), projection in sublayer.biases
                groups.setdefault(kind, []).append(projection)
        return list(groups.values())

    def _output(
        self, index: int, output: Projection, exact: DecoderLayer, layer: DecoderLayer, tensors: Tensors
    ) -> dict[str, torch.Tensor]:
        """Rounds the projection at the end of a sublayer, to bring the stream back, and advances both streams."""
        inputs = Inputs(layer, output, self._rounded, self._room)
        sums = inputs.sums(self._floats, exact, self._weights)
        mean, target_mean = sums.mean(), sums.target_mean()
        operands = self._operands([output], index, tensors)
        fitted = self._rounded_projections(
            [output], index, operands, mean, sums.covariance(), target_mean, sums.cross_covariance()
        )
        inputs.advance([tensor.to(self._device) for tensor in fitted.values()])
        return fitted

    def _parts(
        self,
        index: int,
        sublayer: Sublayer,
        make: Callable[..., PartsFit],
        exact: DecoderLayer,
        layer: DecoderLayer,
        tensors: Tensors,
    ) -> dict[str, torch.Tensor]:
        """Does as `_readers` and `_output` for a sublayer of parts, such as experts, which are rounded one by one."""
        output, name = sublayer.output, names.weight(sublayer.output, index)
        if output not in sublayer.rounded(self._spec.hidden_size, self._how.block_size):
            self._floats.advance(exact, output)
            self._rounded.advance(layer, output)
            return {}

        def store(weight: torch.Tensor, moment: Moment) -> torch.Tensor:
            return round_columns(weight, moment(), self._how.of(name))

        fit = make(sublayer, layer, self._rounded, self._weights)
        self._floats.advance(exact, output, partial(fit.add, exact))
        rounded = {name: fit.fitted(tensors[name].float(), _RIDGE, store).cpu()}
        self._rounded.advance(
            DecoderLayer(self._spec, index, {**tensors, **rounded}, self._device, only=output), output
        )
        return rounded

    def _operands(
        self, projections: Sequence[Projection], index: int, tensors: Tensors
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weights and biases of projections, one below the other, in float64, on the device."""
        biases = [tensors.get(names.bias(projection, index)) for projection in projections]
        weights = [tensors[names.weight(projection, index)] for projection in projections]
        known = [bias.to(self._device).double() for bias in biases if bias is not None]
        weight = torch.cat([weight.to(self._device).double() for weight in weights])
        return weight, torch.cat(known) if known else None

    def _rounded_projections(
        self,
        projections: Sequence[Projection],
        index: int,
        operands: tuple[torch.Tensor, torch.Tensor | None],
        mean: torch.Tensor,
        covariance: torch.Tensor,
        target_mean: torch.Tensor,
        cross: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Fits projections to their target and rounds them: weights, and biases if any, float32 on the CPU.

        Those that the grid does not take stay as they are.
        """
        weight, bias = operands
        if not self._how.takes(weight.shape[1]):
            return self._apart(projections, index, weight.float(), bias)
        fit = refit(
            weight,
            mean,
            covariance.clone(),
            target_mean,
            cross,
            ridge=_RIDGE,
            tokens=self._tokens,
            intercept=bias is not None,
        )
        # A bias takes up the mean, so that only what varies counts; without one, both do.
        moment = covariance.clone() if bias is not None else covariance + torch.outer(mean, mean)
        rounded = round_columns(fit.weight, moment, self._how.of(names.weight(projections[0], index)))
        return self._apart(
            projections, index, rounded, None if bias is None else target_mean - rounded.double() @ mean
        )

    def _apart(
        self, projections: Sequence[Projection], index: int, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """The tensors of projections that lie one below the other, by full name, float32 on the CPU."""
        sublayer = next(one for one in self._spec.layers[index].sublayers if projections[0] in one.projections)
        shapes = sublayer.shapes(self._spec.hidden_size)
        rows = [shapes[projection][0] for projection in projections]
        parts = [(names.weight, weight)] if bias is None else [(names.weight, weight), (names.bias, bias)]
        return {
            named(projection, index): part.float().cpu()
            for named, whole in parts
            for projection, part in zip(projections, whole.split(rows), strict=True)
        }
