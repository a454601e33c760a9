"""Rounds a matrix column by column, each error made up for by the columns that are left: GPTQ.

The rounded weights Q of a projection should minimise tr((Q - W) M (Q - W)ᵀ), with M = E[x xᵀ] of its inputs: the mean
squared change of its output. With U the upper Cholesky factor of M⁻¹, the column j is rounded to its grid, and what
that changes goes into the columns k > j:

    W_k -= (W_j - Q_j) U_jk / U_jj,

which is the least squares solution for them (Frantar et al. 2022, arXiv 2210.17323; Hassibi and Stork 1993). What is
left of an error in column j, once all later columns have made up for it, is (W_j - Q_j)² / U_jj². So a block of
columns gets its scales just before it is rounded, for the weights that it then has, and by these errors. Columns whose
inputs are largest go first, as most columns are left to make up for them: whole blocks, and the columns in each.
"""

from __future__ import annotations

import torch

from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.scales import (
    best_scales,
    kept_scales,
    on_grid,
    padded_blocks,
    padded_importance,
    row_steps,
)

#: The damping of the diagonal of M, as a fraction of its mean, so that M can be inverted if inputs never vary.
_DAMPING = 0.01
#: Added to the diagonal of the LM head's metric, as a fraction of its mean, where its table is the embedding, too.
_EMBEDDING = 0.01
#: With so many bits, no error needs to be made up for.
_EXACT_BITS = 8
#: Rows that are rounded at a time: of a large vocabulary's table, several copies in float32 take gigabytes.
_ROWS = 8192


def table_metric(head: torch.Tensor | None, hidden_size: int, *, is_embedding: bool) -> torch.Tensor:
    """The metric that a table's rows are rounded in, float64 [hidden_size, hidden_size].

    The rows of an embedding are not multiplied with anything, so that all errors in them count alike.
    """
    if head is None:
        return torch.eye(hidden_size, dtype=torch.float64)
    if not is_embedding:
        return head
    return head / head.diagonal().mean() + _EMBEDDING * torch.eye(hidden_size, dtype=torch.float64).to(head.device)


def round_columns(weight: torch.Tensor, moment: torch.Tensor, grid: BlockQuantization) -> torch.Tensor:
    """The rounded matrix, float32 [out, in], on the grid.

    Args:
        weight: W, any float dtype [out, in].
        moment: M up to a factor, float64 [in, in], symmetric, which is overwritten.
    """
    if grid.bits == _EXACT_BITS:
        return _nearest(weight.to(moment.device), grid)
    blocks = _blocks(moment.diagonal(), grid.block_size)
    order = torch.cat(blocks)
    moment.copy_(moment[order[:, None], order])
    factor = inverse_factor(moment).float()
    rounded = torch.empty(weight.shape, device=moment.device)
    for start in range(0, len(weight), _ROWS):
        left = weight[start : start + _ROWS].to(moment.device).float()[:, order]
        rounded[start : start + _ROWS, order] = _rounded(left, factor, [len(block) for block in blocks], grid)
    return rounded


def inverse_factor(moment: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor U of M⁻¹, float64 [in, in], with M damped, in place, to be inverted."""
    spread = moment.diagonal().mean()
    damping = torch.where(spread > 0, _DAMPING * spread, torch.ones_like(spread))
    for further in (1, 9, 90, 900):  # of inputs that hardly vary, M may be the noise of their sums
        moment.diagonal().add_(further * damping)
        factor, failed = torch.linalg.cholesky_ex(moment)
        if not failed:
            break
    return torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)


def _nearest(weight: torch.Tensor, grid: BlockQuantization) -> torch.Tensor:
    """The nearest levels, which are near enough where there are many."""
    rounded = torch.empty(weight.shape, device=weight.device)
    for part, into in zip(weight.split(_ROWS), rounded.split(_ROWS), strict=True):
        blocks = padded_blocks(part.float(), grid)
        scales, points = best_scales(blocks, grid)
        if grid.levels == "balanced":  # the largest weight has the last level, even where float16 has few digits
            most = blocks.abs().amax(-1, keepdim=True)
            blocks = blocks * torch.where(most == 0, 0.0, scales * (grid.middle - 1) / most)
        into.copy_(on_grid(blocks, scales, points, grid).flatten(1)[:, : weight.shape[1]])
    return rounded


def _blocks(power: torch.Tensor, block_size: int) -> list[torch.Tensor]:
    """The columns of each block, those with the largest inputs first, and the blocks in the order of their means."""
    columns = torch.arange(len(power), device=power.device).split(block_size)
    blocks = [block[power[block].argsort(descending=True, stable=True)] for block in columns]
    return sorted(blocks, key=lambda block: -float(power[block].mean()))


def _rounded(left: torch.Tensor, factor: torch.Tensor, sizes: list[int], grid: BlockQuantization) -> torch.Tensor:
    """The rounded columns of a matrix in the order of `factor`, block by block; overwrites the matrix."""
    rounded, end = torch.empty_like(left), 0
    of_rows = _row_steps(left, factor, sizes, grid) if grid.rows else None
    for size in sizes:
        start, end = end, end + size
        remains = factor.diagonal()[start:end]
        importance = padded_importance(remains.reciprocal().square(), grid)[0]
        scales, points = best_scales(padded_blocks(left[:, start:end], grid), grid, importance, of_rows)
        step, zero = kept_scales(scales, grid).flatten(), points.flatten()
        errors = torch.empty(len(left), size, device=left.device)
        for column in range(start, end):
            rounded[:, column] = on_grid(left[:, column], step, zero, grid)
            error = (left[:, column] - rounded[:, column]) / factor[column, column]
            errors[:, column - start] = error
            left[:, column:end].addr_(error, factor[column, column:end], alpha=-1.0)
        left[:, end:] -= errors @ factor[start:end, end:]
    return rounded


def _row_steps(left: torch.Tensor, factor: torch.Tensor, sizes: list[int], grid: BlockQuantization) -> torch.Tensor:
    """The step of each row, [N, 1, 1], chosen before any of its columns is rounded."""
    importance = factor.diagonal().reciprocal().square().split(sizes)
    blocks = torch.cat([padded_blocks(part, grid) for part in left.split(sizes, 1)], 1)
    return row_steps(blocks, grid, torch.cat([padded_importance(part, grid) for part in importance]))
