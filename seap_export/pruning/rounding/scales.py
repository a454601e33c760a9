"""Scales of blocks, and the level nearest to each weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from seap_export.pruning.rounding.grid import BITS, CURVE, BlockQuantization

#: The largest scale of a block of 4 bits in steps of its row: 15 times its lowest level is within 8 bits.
MOST_STEPS = 15
#: Candidate scales for a block of few bits, as fractions of the scale that clips nothing: those with the nearest
#: levels, which earlier versions took, too, and those by importance, beside the best of which two more are tried; of 2
#: bits, the best one clips most.
_SHRINK, _BY_IMPORTANCE = tuple(1 - 0.04 * step for step in range(9)), tuple(1.06 - 0.06 * step for step in range(8))
_OF_2_BITS = tuple(1.06 - 0.06 * step for step in range(12))
_BESIDE = (-0.02, 0.02)
#: Weights of a block that are looked at first to see whether it is on a grid already, and what rounding may hide.
_LOOKED_AT, _NEARLY = 4, 1e-4
#: The smallest number of float16.
_TINY = 2.0**-24


def padded_blocks(matrix: torch.Tensor, grid: BlockQuantization) -> torch.Tensor:
    """A matrix [N, K] as [N, blocks, block_size], the last block filled up with zeros.

    Where zero is no level, the last column is repeated instead, so that a block on a grid stays on it.
    """
    size = grid.width(matrix.shape[1])
    missing = -matrix.shape[1] % size
    if missing and grid.in_pairs:
        filled = torch.cat([matrix, matrix[:, -1:].expand(-1, missing)], 1)
    else:
        filled = torch.nn.functional.pad(matrix, (0, missing))
    return filled.view(len(matrix), -1, size)


def padded_importance(values: torch.Tensor, grid: BlockQuantization) -> torch.Tensor:
    """The importance of K columns as [blocks, block_size]: what fills up the last block has none."""
    size = grid.width(len(values))
    return torch.nn.functional.pad(values, (0, -len(values) % size)).view(-1, size)


def best_scales(
    blocks: torch.Tensor,
    grid: BlockQuantization,
    importance: torch.Tensor | None = None,
    steps: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of each block, both [N, blocks, 1]; see `padded_blocks`.

    Scales are numbers of float16, in which files store them. The scale minimises the block's squared error: clipping
    the largest weights often costs less than the coarser steps that they would require. With 8 bits it clips nothing.
    A block whose weights are on some such grid keeps it, so that rounding twice is rounding once.

    Args:
        blocks: Weights, float32 [N, blocks, block_size].
        importance: The weight of the squared error in each column, float32 [block_size] or [blocks, block_size]; None:
            all count alike.
        steps: `row_steps` of a grid whose rows have one step; None: those of these blocks, which are whole rows.
    """
    if grid.rows:
        return _multiples(blocks, grid, importance, row_steps(blocks, grid, importance) if steps is None else steps)
    full, zero_points = _symmetric(blocks, grid) if grid.symmetric else _asymmetric(blocks, grid.bits)
    if grid.bits == 8:
        return full, zero_points
    if importance is None:  # nothing is to be searched where all blocks are on a grid
        exact = _exact(blocks, grid, full, zero_points)
        if not _error(blocks, *exact, grid).any():
            return exact
    best, lowest = full, _error(blocks, full, zero_points, grid, importance)
    coarse, beside = _fractions(grid, importance is not None)
    for start, fractions in (0.0, coarse), (1.0, beside):
        centre = best * start
        for fraction in fractions:
            scales = float16_scales(centre + full * fraction)
            error = _error(blocks, scales, zero_points, grid, importance)
            best, lowest = torch.where(error < lowest, scales, best), torch.minimum(error, lowest)
    return _exact(blocks, grid, best, zero_points)


def row_steps(blocks: torch.Tensor, grid: BlockQuantization, importance: torch.Tensor | None = None) -> torch.Tensor:
    """The step of each row, [N, 1, 1], whose whole multiples the scales of its blocks have to be.

    The largest scale that a block would have alone becomes `MOST_STEPS` steps. A row whose weights are multiples of
    some step already keeps it.

    Args:
        blocks: Whole rows, float32 [N, blocks, block_size].
    """
    alone, _ = best_scales(blocks, replace(grid, rows=False), importance)
    steps = short_scales(alone.abs().amax(1, keepdim=True) / MOST_STEPS)
    span = blocks.abs().amax((1, 2), keepdim=True)
    few, unsure = (blocks[..., :1] / _not_zero(span)).squeeze(-1), span.flatten() != 0
    for count in range(1, 1 + (MOST_STEPS << grid.bits - 1)):
        near = (few * count - (few * count).round()).abs().amax(1) < _NEARLY
        if (rows := (near & unsure).nonzero().flatten()).numel():
            step = short_scales(span[rows] / count)
            exact = ((blocks[rows] / step).round_().mul_(step) == blocks[rows]).all(-1).all(-1)
            steps[rows[exact]], unsure[rows[exact]] = step[exact], False
    return steps


def _multiples(
    blocks: torch.Tensor, grid: BlockQuantization, importance: torch.Tensor | None, steps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scales with the least squared error among the multiples of a row's step."""
    full, zero_points = _symmetric(blocks, grid)
    best = unit = torch.copysign(steps, full)
    lowest = _error(blocks, best, zero_points, grid, importance)
    for count in range(2, MOST_STEPS + 1):
        scales = unit * count
        error = _error(blocks, scales, zero_points, grid, importance)
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


def kept_scales(scales: torch.Tensor, grid: BlockQuantization) -> torch.Tensor:
    """The nearest scales with which rounded weights are kept by all that store them.

    They are short; where levels lie in pairs, float16 holds each as an offset, too, which is half a step off.
    """
    return scales if grid.rows else 2 * short_scales(scales / 2) if grid.in_pairs else short_scales(scales)


def levels(
    blocks: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, grid: BlockQuantization
) -> torch.Tensor:
    """The number of the level nearest to each weight, from 0 to 2^bits - 1."""
    if grid.levels == "curve":
        curve = torch.tensor(CURVE, dtype=torch.float32, device=blocks.device)
        return torch.bucketize(blocks / scales, (curve[1:] + curve[:-1]) / 2).float()
    return (blocks / scales).add_(zero_points).round_().clamp_(0, (1 << grid.bits) - 1)


def steps(
    blocks: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, grid: BlockQuantization
) -> torch.Tensor:
    """The level nearest to each weight, in scales from zero."""
    numbers = levels(blocks, scales, zero_points, grid)
    if grid.levels == "curve":
        return torch.tensor(CURVE, dtype=torch.float32, device=blocks.device)[numbers.long()]
    return numbers.sub_(zero_points)


def on_grid(
    blocks: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, grid: BlockQuantization
) -> torch.Tensor:
    """Each weight rounded to the nearest level of its block."""
    return steps(blocks, scales, zero_points, grid).mul_(scales)


def _fractions(grid: BlockQuantization, has_importance: bool) -> tuple[Sequence[float], Sequence[float]]:
    """Candidate scales as fractions of the one that clips nothing, and then of these beside the best one.

    Those of `CURVE` come with its ends swapped, too.
    """
    if grid.levels == "curve":
        return (*_BY_IMPORTANCE, *(fraction * CURVE[0] / CURVE[-1] for fraction in _BY_IMPORTANCE)), _BESIDE
    if not has_importance:
        return _SHRINK[1:], ()
    return (_OF_2_BITS if grid.bits == BITS[0] else _BY_IMPORTANCE), _BESIDE


def _symmetric(blocks: torch.Tensor, grid: BlockQuantization) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps the largest weight to the lowest level, of which there is one more below zero than above, or as many."""
    middle, above = grid.middle, (1 << grid.bits) - 1 - grid.middle
    middle = {"balanced": above, "curve": -CURVE[0]}.get(grid.levels, middle)
    if grid.positive or middle == above:
        full = torch.maximum(blocks.amax(-1, keepdim=True) / above, blocks.amin(-1, keepdim=True) / -middle)
    else:
        full = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)) / -middle
    # zeros stay zeros where zero is a level; else they take the smallest weights that there are
    full = full if grid.in_pairs or grid.levels == "curve" else _not_zero(full)
    return float16_scales(full), torch.full_like(full, grid.middle)


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
    grid: BlockQuantization,
    importance: torch.Tensor | None = None,
) -> torch.Tensor:
    """Squared error of each block, [N, blocks, 1]."""
    squares = on_grid(blocks, scales, zero_points, grid).sub_(blocks).square_()
    return (squares if importance is None else squares.mul_(importance)).sum(-1, keepdim=True)


def _exact(
    blocks: torch.Tensor, grid: BlockQuantization, scales: torch.Tensor, zero_points: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replaces the scales and zero points of blocks whose weights are on a grid, multiples of one step, say.

    These get the largest such step, or, as they may be multiples of several, the largest that all float types hold.
    """
    in_pairs = grid.in_pairs
    if grid.symmetric:
        span, most = -blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)), 1 << (grid.bits - 1)
        span = span.abs() if grid.positive or in_pairs else span
    else:
        lowest, highest = _span(blocks)
        span, most = highest - lowest, (1 << grid.bits) - 1
    # of steps in the span, or of half steps, whose number is odd; or what the largest weight may be of a curve
    counts = torch.arange(1, 2 * most if in_pairs else most + 1, 1 + in_pairs, device=blocks.device)
    counts = -torch.tensor(CURVE, device=blocks.device) if grid.levels == "curve" else counts
    few = (blocks[..., :_LOOKED_AT] / _not_zero(span)).unsqueeze(-1) * counts
    near = (((few - few.round()).abs() < _NEARLY).all(-2).any(-1, keepdim=True) & (span != 0)).squeeze(-1)
    if not near.any():
        return scales, zero_points
    near_blocks, near_span, near_scales, points = blocks[near], span[near], scales[near], zero_points[near]
    is_short = torch.zeros_like(near_scales, dtype=torch.bool)
    for count in reversed(counts.tolist()):
        step = float16_scales(near_span * (1 + in_pairs) / count)
        point = points if grid.symmetric else (-_span(near_blocks)[0] / step).round_()
        short = short_scales(step) == step
        better = (_error(near_blocks, step, point, grid) == 0) & (short | ~is_short)
        near_scales, points, is_short = (
            torch.where(better, new, old) for new, old in ((step, near_scales), (point, points), (short, is_short))
        )
    scales, zero_points = scales.clone(), zero_points.clone()
    scales[near], zero_points[near] = near_scales, points
    return scales, zero_points
