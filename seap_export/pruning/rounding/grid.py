"""The levels that a matrix may be rounded to, in equal steps: a step for each block of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import torch

from seap_export.model.families.names import is_product
from seap_export.pruning.rounding.table_rows import TablePart, TableRows

BLOCK_SIZES = (32, 64, 128)
#: The block size of a matrix whose rows have one scale each.
WHOLE_ROW = 0
#: The numbers of bits that a weight may have. With those of `_EVEN`, zero is usually a level; with the others, levels
#: lie in pairs above and below it, since one more below would be a large share of so few.
BITS, _EVEN = (2, 3, 4, 5, 6, 8), (4, 8)
#: Which levels there are besides the bits: the usual ones; zero and one more below it than above; zero and as many
#: below it as above, of which the largest weight has one of the ends; or, with 4 bits, those of `CURVE`.
Levels = Literal["usual", "zero", "balanced", "curve"]
#: Levels that lie closer together near zero, where most weights are: those of llama.cpp's IQ4_NL (`kvalues_iq4nl` in
#: ggml/src/ggml-common.h). None of them is zero.
CURVE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
#: The bits of the integers that are multiplied where the weights in a row are multiples of one step, and the largest
#: scale of a block of 4 bits in such steps: 15 times its lowest level is within 8 bits.
_MULTIPLIED, MOST_STEPS = 8, 15
#: Bits of a weight on average, with its share of a scale of 16 bits, where matrices have bits and blocks of their own:
#: the usual number, that of 4 bits in blocks of 32.
USUAL_AVERAGE = 4.5
#: Candidate scales for a block of few bits, as fractions of the scale that clips nothing: those with the nearest
#: levels, which earlier versions took, too, and those by importance, beside the best of which two more are tried; of 2
#: bits, the best one clips most.
_SHRINK, _BY_IMPORTANCE = tuple(1 - 0.04 * step for step in range(9)), tuple(1.06 - 0.06 * step for step in range(8))
_OF_2_BITS = tuple(1.06 - 0.06 * step for step in range(12))
_BESIDE = (-0.02, 0.02)
#: Weights of a block that are looked at first to see whether it is on a grid already, and what rounding may hide.
_LOOKED_AT, _NEARLY = 4, 1e-4
#: Rows of a table from which on bits for each of them save more than they take.
_MANY_ROWS = 1024
#: The smallest number of float16.
_TINY = 2.0**-24


@dataclass(frozen=True)
class Way:
    """How a matrix may be rounded where matrices have bits of their own.

    Attributes:
        bits: Bits of a weight.
        block_size: Number of weights that share a scale.
        levels: Which levels there are.
        beside: Bits of a block besides those of its weights: a scale, and what else is stored of it.
        of_experts: Whether it is for matrices of experts, or for all others; None: for both.
    """

    bits: int
    block_size: int
    levels: Levels = "usual"
    beside: int = 16
    of_experts: bool | None = None

    @property
    def average(self) -> float:
        """Bits of a weight with its share of what is stored of a block."""
        return self.bits + self.beside / self.block_size

    def takes(self, columns: int) -> bool:
        """Whether rows of so many columns are whole blocks."""
        return columns % self.block_size == 0


@dataclass(frozen=True)
class BlockQuantization:
    """Weight-only quantisation of matrices [out, in] in blocks along `in`: weight = (q - zero point) * scale.

    Attributes:
        bits: One of `BITS`.
        block_size: Number of weights that share a scale: 32, 64 or 128; of one matrix also `WHOLE_ROW`.
        symmetric: Whether the zero point is always `middle`; otherwise, with 4 or 8 bits, each block has one.
        embeddings: Whether the embedding and the LM head are quantised, too.
        whole_blocks: Whether matrices whose rows are no whole blocks stay as they are; otherwise their last blocks are
            filled up with zeros.
        positive: Whether scales are above zero. Otherwise that of a symmetric block may be below, so that its largest
            weight, of either sign, has the lowest level.
        average: Bits of a weight with its share of a scale, the mean of all matrices, which then have bits of their
            own; None: all matrices are alike.
        mix: Name of the format that such matrices are for.
        ways: What their bits are chosen from, as long as they are not.
        others: The matrices that have other bits and blocks than these: the full names of weights, bits, block size,
            levels.
        rows: Whether the weights in a row of a matrix that layers multiply with are whole multiples of one step, so
            that integers can be multiplied. With 8 bits, such a row is one block; with 4, the scale of each of its
            blocks is a multiple of the step, too. The embedding, the LM head and experts have blocks as usual.
        levels: Which levels symmetric blocks have.
        splits_tables: Whether the rows of an embedding and of the LM head may have bits of their own; see `splits`.
        tables: The tables whose rows do.
    """

    bits: int
    block_size: int = 32
    symmetric: bool = True
    embeddings: bool = True
    whole_blocks: bool = False
    positive: bool = False
    average: float | None = None
    mix: str = ""
    ways: tuple[Way, ...] = ()
    others: tuple[tuple[str, int, int, Levels], ...] = ()
    rows: bool = False
    levels: Levels = "usual"
    splits_tables: bool = False
    tables: tuple[TableRows, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "others", tuple(_other(*other) for other in self.others))
        tables = (table if isinstance(table, TableRows) else TableRows(*table) for table in self.tables)
        object.__setattr__(self, "tables", tuple(tables))
        if self.bits not in BITS:
            raise ValueError(f"bits must be one of {BITS}, not {self.bits}")
        if self.block_size not in (WHOLE_ROW, *BLOCK_SIZES):
            raise ValueError(f"block size must be one of {BLOCK_SIZES}, not {self.block_size}")
        if self.levels not in get_args(Levels):
            raise ValueError(f"levels must be one of {get_args(Levels)}, not {self.levels}")
        if not self.symmetric and self.bits not in _EVEN:
            raise ValueError(f"weights of {self.bits} bits have no zero points")
        if self.rows and (self.bits not in _EVEN or not self.symmetric):
            raise ValueError("rows have one step with 4 or 8 bits, and no zero points")

    @property
    def middle(self) -> float:
        """The zero point of symmetric blocks: a level, or between two; of `CURVE`, whose levels are no steps, 0."""
        return 0.0 if self.levels == "curve" else (1 << (self.bits - 1)) - (0.5 if self.in_pairs else 0.0)

    @property
    def in_pairs(self) -> bool:
        """Whether levels lie in pairs above and below zero, which is none."""
        return self.symmetric and self.levels == "usual" and self.bits not in _EVEN

    @property
    def name(self) -> str:
        """A name for files, such as "int4-32"."""
        further = ["" if self.symmetric else "-asymmetric", "" if self.embeddings else "-float-embeddings"]
        further += ["-whole-blocks" if self.whole_blocks else "", "-positive" if self.positive else ""]
        mixed = "-".join(filter(None, (f"mixed-{self.average or 0:g}", self.mix)))
        kind = mixed if self.average is not None else f"int{self.bits}-{self.block_size}"
        kind = f"w{self.bits}a8-{self.block_size}" if self.rows else kind
        return f"{kind}{''.join(further)}"

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; those of matrices with bits or scales of their own only where there are some."""
        values = asdict(self) | {
            "others": [list(other) for other in self.others],
            "tables": [[table.name, table.block_size, table.bits] for table in self.tables],
        }
        unset = [] if self.average is not None else ["average", "others"]
        unset += [name for name in ("mix", "ways", "rows", "splits_tables", "tables") if not values[name]]
        unset += ["levels"] if self.levels == "usual" else []
        return {name: value for name, value in values.items() if name not in unset}

    def of(self, name: str) -> BlockQuantization:
        """The grid of one matrix, given the full name of its weight, or the name of a table's part.

        That of a table with parts is that of its first one, which has the blocks of all.
        """
        rows = self.rows and is_product(name)
        if rows and self.bits == _MULTIPLIED:
            return replace(self, block_size=WHOLE_ROW, rows=False)
        bits, size, levels = self._others.get(name, (self.bits, self.block_size, self.levels))
        return replace(self.rounded(Way(bits, size, levels)), rows=rows)

    def rounded(self, way: Way) -> BlockQuantization:
        """The grid of a matrix that is rounded in one of the ways."""
        alone = replace(self, average=None, mix="", ways=(), others=(), rows=False, splits_tables=False, tables=())
        return replace(alone, bits=way.bits, block_size=way.block_size, levels=way.levels)

    @property
    def input_block(self) -> int:
        """How many of a token's values share a scale in products that round them; `WHOLE_ROW`: all of them."""
        return WHOLE_ROW if self.rows else self.block_size

    def width(self, columns: int) -> int:
        """Number of weights in a block of a row with so many columns."""
        return self.block_size or columns

    def splits(self, rows: int) -> bool:
        """Whether the rows of a table with so many may have bits of their own: of few, the nodes for it take more."""
        return self.splits_tables and rows >= _MANY_ROWS

    def parts(self, name: str) -> tuple[TablePart, ...]:
        """The parts of a table whose rows have bits of their own, each of which has a grid, see `of`; else none."""
        return next((table.parts for table in self.tables if table.name == name), ())

    @cached_property
    def _others(self) -> dict[str, tuple[int, int, Levels]]:
        known = {name: (bits, size, levels) for name, bits, size, levels in self.others}
        for table in self.tables:
            known |= {part.name: (part.bits, table.block_size, "usual") for part in table.parts}
            known[table.name] = known[table.parts[0].name]
        return known

    def takes(self, columns: int) -> bool:
        """Whether matrices with so many columns are quantised."""
        return not self.whole_blocks or columns % self.block_size == 0

    def takes_table(self, columns: int) -> bool:
        """Whether an embedding of so many columns, or the LM head, is quantised: whole blocks can be looked up."""
        return self.embeddings and columns % self.block_size == 0


def _other(name: str, bits: int, size: int, levels: Levels = "usual") -> tuple[str, int, int, Levels]:
    """An entry of `BlockQuantization.others`; earlier files have usual levels, and do not name them."""
    if levels not in get_args(Levels):
        raise ValueError(f"levels must be one of {get_args(Levels)}, not {levels}")
    return name, bits, size, levels


def padded_blocks(matrix: torch.Tensor, how: BlockQuantization) -> torch.Tensor:
    """A matrix [N, K] as [N, blocks, block_size], the last block filled up with zeros.

    Where zero is no level, the last column is repeated instead, so that a block on a grid stays on it.
    """
    size = how.width(matrix.shape[1])
    missing = -matrix.shape[1] % size
    if missing and how.in_pairs:
        filled = torch.cat([matrix, matrix[:, -1:].expand(-1, missing)], 1)
    else:
        filled = torch.nn.functional.pad(matrix, (0, missing))
    return filled.view(len(matrix), -1, size)


def padded_importance(values: torch.Tensor, how: BlockQuantization) -> torch.Tensor:
    """The importance of K columns as [blocks, block_size]: what fills up the last block has none."""
    size = how.width(len(values))
    return torch.nn.functional.pad(values, (0, -len(values) % size)).view(-1, size)


def best_scales(
    blocks: torch.Tensor,
    how: BlockQuantization,
    importance: torch.Tensor | None = None,
    steps: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of each block, both [N, blocks, 1]; see `padded_blocks`.

    Scales are numbers of float16, in which files store them. The scale minimises the block's squared error: clipping
    the largest weights often costs less than the coarser steps that they would require. With 8 bits it clips nothing.
    A block whose weights are on some such grid keeps it, so that rounding twice is rounding once.

    Args:
        blocks: Weights, float32 [N, blocks, block_size].
        how: The grid.
        importance: The weight of the squared error in each column, float32 [block_size] or [blocks, block_size]; None:
            all count alike.
        steps: `row_steps` of a grid whose rows have one step; None: those of these blocks, which are whole rows.
    """
    if how.rows:
        return _multiples(blocks, how, importance, row_steps(blocks, how, importance) if steps is None else steps)
    full, zero_points = _symmetric(blocks, how) if how.symmetric else _asymmetric(blocks, how.bits)
    if how.bits == 8:
        return full, zero_points
    if importance is None:  # nothing is to be searched where all blocks are on a grid
        exact = _exact(blocks, how, full, zero_points)
        if not _error(blocks, *exact, how).any():
            return exact
    best, lowest = full, _error(blocks, full, zero_points, how, importance)
    coarse, beside = _fractions(how, importance is not None)
    for start, fractions in (0.0, coarse), (1.0, beside):
        centre = best * start
        for fraction in fractions:
            scales = float16_scales(centre + full * fraction)
            error = _error(blocks, scales, zero_points, how, importance)
            best, lowest = torch.where(error < lowest, scales, best), torch.minimum(error, lowest)
    return _exact(blocks, how, best, zero_points)


def row_steps(blocks: torch.Tensor, how: BlockQuantization, importance: torch.Tensor | None = None) -> torch.Tensor:
    """The step of each row, [N, 1, 1], whose whole multiples the scales of its blocks have to be.

    The largest scale that a block would have alone becomes `MOST_STEPS` steps. A row whose weights are multiples of
    some step already keeps it.

    Args:
        blocks: Whole rows, float32 [N, blocks, block_size].
        how: The grid.
        importance: As in `best_scales`.
    """
    alone, _ = best_scales(blocks, replace(how, rows=False), importance)
    steps = short_scales(alone.abs().amax(1, keepdim=True) / MOST_STEPS)
    span = blocks.abs().amax((1, 2), keepdim=True)
    few, unsure = (blocks[..., :1] / _not_zero(span)).squeeze(-1), span.flatten() != 0
    for count in range(1, 1 + (MOST_STEPS << how.bits - 1)):
        near = (few * count - (few * count).round()).abs().amax(1) < _NEARLY
        if (rows := (near & unsure).nonzero().flatten()).numel():
            step = short_scales(span[rows] / count)
            exact = ((blocks[rows] / step).round_().mul_(step) == blocks[rows]).all(-1).all(-1)
            steps[rows[exact]], unsure[rows[exact]] = step[exact], False
    return steps


def _multiples(
    blocks: torch.Tensor, how: BlockQuantization, importance: torch.Tensor | None, steps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scales with the least squared error among the multiples of a row's step."""
    full, zero_points = _symmetric(blocks, how)
    best = unit = torch.copysign(steps, full)
    lowest = _error(blocks, best, zero_points, how, importance)
    for count in range(2, MOST_STEPS + 1):
        scales = unit * count
        error = _error(blocks, scales, zero_points, how, importance)
        best, lowest = torch.where(error < lowest, scales, best), torch.minimum(error, lowest)
    return best, zero_points


def float16_scales(scales: torch.Tensor) -> torch.Tensor:
    """The nearest scales that float16 holds; none becomes zero, and those that are too large stay as they are."""
    near = scales.half().float()
    near = torch.where(near == 0, torch.copysign(torch.full_like(near, _TINY), scales), near)
    return torch.where(near.isinf(), scales, near)


def short_scales(scales: torch.Tensor) -> torch.Tensor:
    """The nearest scales of 8 binary digits, or fewer where float16 has no more; none becomes zero.

    All float types hold them, and float32 their products with levels.
    """
    return float16_scales(scales.bfloat16().float())


def kept_scales(scales: torch.Tensor, how: BlockQuantization) -> torch.Tensor:
    """The nearest scales with which rounded weights are kept by all that store them.

    They are short; where levels lie in pairs, float16 holds each as an offset, too, which is half a step off.
    """
    return scales if how.rows else 2 * short_scales(scales / 2) if how.in_pairs else short_scales(scales)


def levels(
    blocks: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, how: BlockQuantization
) -> torch.Tensor:
    """The number of the level nearest to each weight, from 0 to 2^bits - 1."""
    if how.levels == "curve":
        curve = torch.tensor(CURVE, dtype=torch.float32, device=blocks.device)
        return torch.bucketize(blocks / scales, (curve[1:] + curve[:-1]) / 2).float()
    return (blocks / scales).add_(zero_points).round_().clamp_(0, (1 << how.bits) - 1)


def steps(
    blocks: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, how: BlockQuantization
) -> torch.Tensor:
    """The level nearest to each weight, in scales from zero."""
    numbers = levels(blocks, scales, zero_points, how)
    if how.levels == "curve":
        return torch.tensor(CURVE, dtype=torch.float32, device=blocks.device)[numbers.long()]
    return numbers.sub_(zero_points)


def on_grid(
    blocks: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, how: BlockQuantization
) -> torch.Tensor:
    """Each weight rounded to the nearest level of its block."""
    return steps(blocks, scales, zero_points, how).mul_(scales)


def _fractions(how: BlockQuantization, has_importance: bool) -> tuple[Sequence[float], Sequence[float]]:
    """Candidate scales as fractions of the one that clips nothing, and then of these beside the best one.

    Those of `CURVE` come with its ends swapped, too.
    """
    if how.levels == "curve":
        return (*_BY_IMPORTANCE, *(fraction * CURVE[0] / CURVE[-1] for fraction in _BY_IMPORTANCE)), _BESIDE
    if not has_importance:
        return _SHRINK[1:], ()
    return (_OF_2_BITS if how.bits == BITS[0] else _BY_IMPORTANCE), _BESIDE


def _symmetric(blocks: torch.Tensor, how: BlockQuantization) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps the largest weight to the lowest level, of which there is one more below zero than above, or as many."""
    middle, above = how.middle, (1 << how.bits) - 1 - how.middle
    middle = {"balanced": above, "curve": -CURVE[0]}.get(how.levels, middle)
    if how.positive or middle == above:
        full = torch.maximum(blocks.amax(-1, keepdim=True) / above, blocks.amin(-1, keepdim=True) / -middle)
    else:
        full = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)) / -middle
    # zeros stay zeros where zero is a level; else they take the smallest weights that there are
    full = full if how.in_pairs or how.levels == "curve" else _not_zero(full)
    return float16_scales(full), torch.full_like(full, how.middle)


def _asymmetric(blocks: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Makes the levels span the block's weights and zero, which is always a level."""
    top = (1 << bits) - 1
    lowest, highest = _span(blocks)
    scales = float16_scales(_not_zero((highest - lowest) / top))
    return scales, (-lowest / scales).round_().clamp_(0, top)


def _span(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return blocks.amin(-1, keepdim=True).clamp_(max=0.0), blocks.amax(-1, keepdim=True).clamp_(min=0.0)


def _not_zero(scales: torch.Tensor) -> torch.Tensor:
    return torch.where(scales == 0, torch.ones_like(scales), scales)


def _error(
    blocks: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor,
    how: BlockQuantization,
    importance: torch.Tensor | None = None,
) -> torch.Tensor:
    """Squared error of each block, [N, blocks, 1]."""
    squares = on_grid(blocks, scales, zero_points, how).sub_(blocks).square_()
    return (squares if importance is None else squares.mul_(importance)).sum(-1, keepdim=True)


def _exact(
    blocks: torch.Tensor, how: BlockQuantization, scales: torch.Tensor, zero_points: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replaces the scales and zero points of blocks whose weights are on a grid, multiples of one step, say.

    These get the largest such step, or, as they may be multiples of several, the largest that all float types hold.
    """
    in_pairs = how.in_pairs
    if how.symmetric:
        span, most = -blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)), 1 << (how.bits - 1)
        span = span.abs() if how.positive or in_pairs else span
    else:
        lowest, highest = _span(blocks)
        span, most = highest - lowest, (1 << how.bits) - 1
    # of steps in the span, or of half steps, whose number is odd; or what the largest weight may be of a curve
    counts = torch.arange(1, 2 * most if in_pairs else most + 1, 1 + in_pairs, device=blocks.device)
    counts = -torch.tensor(CURVE, device=blocks.device) if how.levels == "curve" else counts
    few = (blocks[..., :_LOOKED_AT] / _not_zero(span)).unsqueeze(-1) * counts
    near = (((few - few.round()).abs() < _NEARLY).all(-2).any(-1, keepdim=True) & (span != 0)).squeeze(-1)
    if not near.any():
        return scales, zero_points
    near_blocks, near_span, near_scales, points = blocks[near], span[near], scales[near], zero_points[near]
    is_short = torch.zeros_like(near_scales, dtype=torch.bool)
    for count in reversed(counts.tolist()):
        step = float16_scales(near_span * (1 + in_pairs) / count)
        point = points if how.symmetric else (-_span(near_blocks)[0] / step).round_()
        short = short_scales(step) == step
        better = (_error(near_blocks, step, point, how) == 0) & (short | ~is_short)
        near_scales, points, is_short = (
            torch.where(better, new, old) for new, old in ((step, near_scales), (point, points), (short, is_short))
        )
    scales, zero_points = scales.clone(), zero_points.clone()
    scales[near], zero_points[near] = near_scales, points
    return scales, zero_points
