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
from seap_export.pruning.rounding.columns import inverse_factor, round_columns, table_metric
from seap_export.pruning.rounding.grid import BlockQuantization, Way
from seap_export.pruning.rounding.information import Information, information
from seap_export.pruning.rounding.scales import best_scales, on_grid, padded_blocks, padded_importance
from seap_export.pruning.rounding.table_rows import TableRows

#: Rows of a matrix whose errors are computed.
_ROWS = 256
#: Ranges of a table's rows, sorted by what they mean, whose bits are chosen one by one; the first ones are shortest.
_RANGES = 48
#: Rounding costs about this many times what is predicted of each matrix alone: docs/research/measurements.md.
_TOGETHER = 1.6
#: Rows of a table that are looked at at a time, and what is divided by at least.
_AT_ONCE, _TINY = 8192, torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Group:
    """The full names of weights that have one grid together, and the ways that there are for them.

    Attributes:
        is_table: Whether it is an embedding or an LM head.
        rows: The rows that are meant, if not all.
    """

    names: list[str]
    ways: list[Way]
    is_table: bool = False
    rows: torch.Tensor | None = None


@dataclass(frozen=True)
class _Option:
    """One of the ways to round a group of matrices: KL in nats per token, and bytes."""

    way: Way
    loss: float
    size: int


def shared_out(
    source: Source, texts: Sequence[Sequence[int]], rounding: BlockQuantization, folder: Path, device: torch.device
) -> BlockQuantization:
    """The grid with bits and blocks for each matrix whose average is at most `how.average`."""
    assert rounding.average is not None
    costs = _costs(source, texts, rounding, folder, device)
    chosen = list(zip(costs.groups, costs.cheapest(rounding.average), strict=True))
    others = (
        (name, option.way.bits, option.way.block_size, option.way.levels)
        for group, option in chosen
        for name in group.names
        if group.rows is None
    )
    ranges: dict[str, list[tuple[torch.Tensor, Way]]] = {}
    for group, option in chosen:
        if group.rows is not None:
            ranges.setdefault(group.names[0], []).append((group.rows, option.way))
    tables = tuple(_table_rows(name, parts) for name, parts in ranges.items())
    return replace(rounding, ways=(), others=tuple(others), tables=tables)


def _table_rows(name: str, ranges: Sequence[tuple[torch.Tensor, Way]]) -> TableRows:
    bits = torch.empty(sum(len(rows) for rows, _ in ranges), dtype=torch.uint8)
    for rows, way in ranges:
        bits[rows] = way.bits
    return TableRows(name, ranges[0][1].block_size, "".join(map(str, bits.tolist())))


def guess_rounding(
    source: Source, texts: Sequence[Sequence[int]], rounding: BlockQuantization, folder: Path, device: torch.device
) -> list[tuple[float, float]]:
    """Average bits of a weight, and about the KL of the model with so many, nats per token; nothing is rounded.

    Args:
        texts: Token ids of calibration texts.
        rounding: The grid, with any average and the ways that there are.
        folder: An existing folder for temporary files.
        device: Where layers are computed.
    """
    costs = _costs(source, texts, rounding, folder, device)
    known = [way.average for way in rounding.ways if way.of_experts is not True]
    averages = (quarters / 4 for quarters in range(math.ceil(4 * min(known)), math.floor(4 * max(known)) + 1))
    return [(average, _TOGETHER * sum(option.loss for option in costs.cheapest(average))) for average in averages]


@dataclass(frozen=True)
class _Costs:
    """The options of all groups, and the number of weights."""

    groups: Sequence[Group]
    options: Sequence[Sequence[_Option]]
    weights: int

    def cheapest(self, average: float) -> list[_Option]:
        return _cheapest(self.options, average / 8 * self.weights)


def _costs(
    source: Source, texts: Sequence[Sequence[int]], rounding: BlockQuantization, folder: Path, device: torch.device
) -> _Costs:
    by_name = {name: group for group in groups_of(source.spec, rounding) for name in group.names}
    of_matrices: dict[str, list[_Option]] = {}
    of_tables: dict[str, list[Information]] = {}
    for layer in information(source, texts, folder, device):
        for name in layer.keys() & by_name.keys():
            if by_name[name].is_table:
                of_tables.setdefault(name, []).append(layer[name])
            else:
                weight = source.reader.read([name])[name].to(device)
                of_matrices[name] = list(_options(weight, layer[name], rounding, by_name[name].ways))
    groups, options, shapes = list[Group](), list[list[_Option]](), source.reader.shapes()
    for group in groups_of(source.spec, rounding):
        if not group.is_table:
            groups.append(group)
            options.append(_together([of_matrices[name] for name in group.names]))
            continue
        (name,) = group.names
        weight, is_embedding = source.reader.read([name])[name].to(device), name == names.tensor("embed_tokens")
        losses = _losses_of_rows(weight, of_tables[name], rounding, group.ways, is_embedding=is_embedding)
        for rows in _ranges(losses) if rounding.splits(losses.shape[1]) else (slice(None),):
            groups.append(replace(group, rows=rows) if isinstance(rows, torch.Tensor) else group)
            of_range = losses[:, rows]
            sizes = (_size(of_range.shape[1], shapes[name][1], way) for way in group.ways)
            options.append(_together([list(map(_Option, group.ways, of_range.sum(1).tolist(), sizes))]))
    return _Costs(groups, options, sum(math.prod(shapes[name]) for name in by_name))


def _ranges(losses: torch.Tensor) -> Iterator[torch.Tensor]:
    """The rows of a table in ranges, those that lose most first, given what each loses in each of the ways."""
    order, last = losses.mean(0).argsort(descending=True, stable=True), 0
    for number in range(1, _RANGES + 1):
        end = len(order) * number**2 // _RANGES**2
        if end > last:
            yield order[last:end].sort().values
        last = end


def groups_of(spec: ModelSpec, rounding: BlockQuantization) -> Iterator[Group]:
    """The matrices that have one grid together, as formats join some; those without a way have none.

    The readers of a sublayer are a group, its output projection is another, the experts of a layer are one, and so is
    each table, whose rows must be whole blocks; where they may have bits of their own, their blocks are the largest.
    """
    if rounding.takes_table(spec.hidden_size):
        whole = [way for way in rounding.ways if way.of_experts is not True and way.takes(spec.hidden_size)]
        if rounding.splits(spec.vocab_size):
            whole = [way for way in whole if way.block_size == max(other.block_size for other in whole)]
        for table in ("embed_tokens",) if spec.tie_word_embeddings else ("embed_tokens", "lm_head"):
            yield Group([names.tensor(table)], whole, is_table=True)
    for index, layer in enumerate(spec.layers):
        for sublayer in layer.sublayers:
            rounded = sublayer.rounded(spec.hidden_size, rounding.block_size)
            parts = (
                ((*sublayer.readers, sublayer.output),)
                if isinstance(sublayer, Experts)
                else (sublayer.readers, (sublayer.output,))
            )
            for part in parts:
                group = [projection for projection in part if projection in rounded]
                if ways := _ways(sublayer, group, spec.hidden_size, rounding):
                    yield Group([names.weight(projection, index) for projection in group], ways)


def _ways(sublayer: Sublayer, group: Sequence[Projection], hidden_size: int, rounding: BlockQuantization) -> list[Way]:
    """The ways for some projections of a sublayer; none if there are no projections."""
    is_mixture, shapes = isinstance(sublayer, Experts), sublayer.shapes(hidden_size)
    widths = {shapes[projection][1] for projection in group}
    if isinstance(sublayer, Experts):
        widths = {hidden_size, sublayer.moe_intermediate_size} if group else set()
    fit = [way for way in rounding.ways if not rounding.whole_blocks or all(map(way.takes, widths))]
    return [way for way in fit if widths and way.of_experts in (None, is_mixture)]


def _options(
    weight: torch.Tensor, what: Information, rounding: BlockQuantization, ways: Sequence[Way]
) -> Iterator[_Option]:
    """The cost of each way: the errors that remain where later columns make up for earlier ones."""
    left = inverse_factor(what.moment.to(weight.device)).diagonal().reciprocal().square().float()
    left = left.repeat(weight.shape[1] // len(left))
    rows = _some_rows(weight)
    some, of_rows = weight[rows].float(), what.rows.to(weight.device)
    scale = float(of_rows.sum() / of_rows[rows].sum().clamp_min(_TINY))
    for way in ways:
        grid = rounding.rounded(way)
        blocks, importance = padded_blocks(some, grid), padded_importance(left, grid)
        scales, points = best_scales(blocks, grid, importance)
        errors = on_grid(blocks, scales, points, grid).sub_(blocks).square_().mul_(importance).sum((1, 2)).double()
        yield _Option(way, 0.5 * scale * float(errors @ of_rows[rows]), _size(len(weight), weight.shape[1], way))


def _losses_of_rows(
    table: torch.Tensor,
    uses: Sequence[Information],
    rounding: BlockQuantization,
    ways: Sequence[Way],
    *,
    is_embedding: bool,
) -> torch.Tensor:
    """The cost of each way in each row of a table, float64 [ways, rows] on the CPU.

    Some rows are rounded. What they lose of their squares, in the metric of each use, all rows are taken to lose.
    """
    head = None if is_embedding and len(uses) == 1 else uses[0].moment.to(table.device)
    metric = table_metric(head, table.shape[1], is_embedding=is_embedding).to(table.device)
    some = table[_some_rows(table)].float()
    errors = [round_columns(some, metric.clone(), rounding.rounded(way)) - some for way in ways]
    losses = torch.zeros(len(ways), len(table), dtype=torch.float64)
    for use in uses:
        of_use = use.moment.to(table.device)
        rows = torch.cat([_squares(part, of_use) for part in table.split(_AT_ONCE)]).cpu() * use.rows.cpu()
        whole = float(_squares(some, of_use).sum().clamp_min(_TINY))
        fractions = [float(_squares(error, of_use).sum()) / whole for error in errors]
        losses += 0.5 * torch.outer(torch.tensor(fractions, dtype=torch.float64), rows)
    return losses


def _squares(rows: torch.Tensor, metric: torch.Tensor) -> torch.Tensor:
    """The square of each row in a metric, float64 [rows]."""
    return ((rows.float() @ metric.float()) * rows.float()).sum(1, dtype=torch.float64)


def _some_rows(weight: torch.Tensor) -> torch.Tensor:
    return torch.linspace(0, len(weight) - 1, min(_ROWS, len(weight)), device=weight.device).round().long()


def _size(rows: int, columns: int, way: Way) -> int:
    """Bytes of so many rows."""
    return rows * -(-columns // way.block_size) * (way.block_size * way.bits + way.beside) // 8


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
