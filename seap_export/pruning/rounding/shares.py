"""Shares bits out among the matrices of a model, so that rounding moves its predictions least at a given size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from seap_export.model.families import Experts, ModelSpec, Sublayer, names
from seap_export.model.families.names import Projection
from seap_export.model.sources.source import Source
from seap_export.pruning.rounding.columns import inverse_factor
from seap_export.pruning.rounding.grid import (
    BlockQuantization,
    Way,
    best_scales,
    on_grid,
    padded_blocks,
    padded_importance,
)
from seap_export.pruning.rounding.information import Information, information

#: Rows of a matrix whose errors are computed.
_ROWS = 256
#: Rounding costs about this many times what is predicted of each matrix alone: docs/research/measurements.md.
_TOGETHER = 1.6


@dataclass(frozen=True)
class Group:
    """The full names of weights that have one grid together, and the ways that there are for them."""

    names: list[str]
    ways: list[Way]


@dataclass(frozen=True)
class _Option:
    """One of the ways to round a group of matrices: KL in nats per token, and bytes."""

    way: Way
    loss: float
    size: int


def shared_out(
    source: Source, texts: Sequence[Sequence[int]], how: BlockQuantization, folder: Path, device: torch.device
) -> BlockQuantization:
    """The grid with bits and blocks for each matrix whose average is at most `how.average`.

    Args:
        source: The model.
        texts: Token ids of calibration texts.
        how: The grid, with an average and the ways that there are.
        folder: An existing folder for temporary files.
        device: Where layers are computed.
    """
    assert how.average is not None
    costs = _costs(source, texts, how, folder, device)
    chosen = costs.cheapest(how.average)
    others = (
        (name, option.way.bits, option.way.block_size, option.way.levels)
        for group, option in zip(costs.groups, chosen, strict=True)
        for name in group.names
    )
    return replace(how, ways=(), others=tuple(others))


def guess_rounding(
    source: Source, texts: Sequence[Sequence[int]], how: BlockQuantization, folder: Path, device: torch.device
) -> list[tuple[float, float]]:
    """Average bits of a weight, and about the KL of the model with so many, nats per token; nothing is rounded.

    Args:
        source: The model.
        texts: Token ids of calibration texts.
        how: The grid, with any average and the ways that there are.
        folder: An existing folder for temporary files.
        device: Where layers are computed.
    """
    costs = _costs(source, texts, how, folder, device)
    known = [way.average for way in how.ways if way.of_experts is not True]
    averages = (quarters / 4 for quarters in range(math.ceil(4 * min(known)), math.floor(4 * max(known)) + 1))
    return [(average, _TOGETHER * sum(one.loss for one in costs.cheapest(average))) for average in averages]


@dataclass(frozen=True)
class _Costs:
    """The options of all groups, and the number of weights."""

    groups: Sequence[Group]
    options: Sequence[Sequence[_Option]]
    weights: int

    def cheapest(self, average: float) -> list[_Option]:
        return _cheapest(self.options, average / 8 * self.weights)


def _costs(
    source: Source, texts: Sequence[Sequence[int]], how: BlockQuantization, folder: Path, device: torch.device
) -> _Costs:
    groups = list(groups_of(source.spec, how))
    ways = {name: group.ways for group in groups for name in group.names}
    costs: dict[str, list[_Option]] = {}
    for layer in information(source, texts, folder, device):
        for name in layer.keys() & ways.keys():
            weight = source.reader.read([name])[name].to(device)
            costs[name] = list(_options(weight, layer[name], how, ways[name]))
    options = [_together([costs[name] for name in group.names]) for group in groups]
    return _Costs(groups, options, sum(math.prod(source.reader.shapes()[name]) for name in ways))


def groups_of(spec: ModelSpec, how: BlockQuantization) -> Iterator[Group]:
    """The matrices that have one grid together, as formats join some; those without a way have none.

    The readers of a sublayer are a group, its output projection is another, the experts of a layer are one, and so is
    each table, whose rows must be whole blocks.
    """
    if how.takes_table(spec.hidden_size):
        whole = [way for way in how.ways if way.of_experts is not True and way.takes(spec.hidden_size)]
        for table in ("embed_tokens",) if spec.tie_word_embeddings else ("embed_tokens", "lm_head"):
            yield Group([names.tensor(table)], whole)
    for index, layer in enumerate(spec.layers):
        for sublayer in layer.sublayers:
            rounded = sublayer.rounded(spec.hidden_size, how.block_size)
            parts = (
                ((*sublayer.readers, sublayer.output),)
                if isinstance(sublayer, Experts)
                else (sublayer.readers, (sublayer.output,))
            )
            for part in parts:
                group = [projection for projection in part if projection in rounded]
                if ways := _ways(sublayer, group, spec.hidden_size, how):
                    yield Group([names.weight(projection, index) for projection in group], ways)


def _ways(sublayer: Sublayer, group: Sequence[Projection], hidden_size: int, how: BlockQuantization) -> list[Way]:
    """The ways for some projections of a sublayer; none if there are no projections."""
    is_mixture, shapes = isinstance(sublayer, Experts), sublayer.shapes(hidden_size)
    widths = {shapes[projection][1] for projection in group}
    if isinstance(sublayer, Experts):
        widths = {hidden_size, sublayer.moe_intermediate_size} if group else set()
    fit = [way for way in how.ways if not how.whole_blocks or all(map(way.takes, widths))]
    return [way for way in fit if widths and way.of_experts in (None, is_mixture)]


def _options(
    weight: torch.Tensor, what: Information, how: BlockQuantization, ways: Sequence[Way]
) -> Iterator[_Option]:
    """What each of the ways costs: the errors that are left where later columns make up for earlier ones."""
    left = inverse_factor(what.moment.to(weight.device)).diagonal().reciprocal().square().float()
    left = left.repeat(weight.shape[1] // len(left))
    rows = torch.linspace(0, len(weight) - 1, min(_ROWS, len(weight)), device=weight.device).round().long()
    some, of_rows = weight[rows].float(), what.rows.to(weight.device)
    scale = float(of_rows.sum() / of_rows[rows].sum().clamp_min(torch.finfo(torch.float64).tiny))
    for way in ways:
        grid, size = how.rounded(way), way.block_size
        blocks, importance = padded_blocks(some, grid), padded_importance(left, grid)
        scales, points = best_scales(blocks, grid, importance)
        errors = on_grid(blocks, scales, points, grid).sub_(blocks).square_().mul_(importance).sum((1, 2)).double()
        loss = 0.5 * scale * float(errors @ of_rows[rows])
        blocks_of_row = -(-weight.shape[1] // size)
        yield _Option(way, loss, len(weight) * blocks_of_row * (size * way.bits + way.beside) // 8)


def _together(options: Sequence[Sequence[_Option]]) -> list[_Option]:
    """The options of several matrices that have one grid, the smallest first, without those that are beaten."""
    summed = [
        _Option(same[0].way, sum(one.loss for one in same), sum(one.size for one in same))
        for same in zip(*options, strict=True)
    ]
    kept: list[_Option] = []
    for option in sorted(summed, key=lambda one: (one.size, one.loss)):
        if not kept or option.loss < kept[-1].loss:
            kept.append(option)
    return kept


def _cheapest(options: Sequence[Sequence[_Option]], budget: float) -> list[_Option]:
    """One option of each group with the least sum of losses, within the budget of bytes.

    Options are sorted by size, and larger ones lose less. Every group begins with its smallest one; then the change
    that saves most loss for its bytes is made, again and again, among those that fit.
    """
    chosen, left = [group[0] for group in options], budget - sum(group[0].size for group in options)
    while True:
        changes = [
            ((chosen[i].loss - option.loss) / (option.size - chosen[i].size), i, option)
            for i, group in enumerate(options)
            for option in group
            if 0 < option.size - chosen[i].size <= left
        ]
        if not changes:
            return chosen
        _, i, option = max(changes, key=lambda change: (change[0], -change[1]))
        left -= option.size - chosen[i].size
        chosen[i] = option
