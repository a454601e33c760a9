"""Rounding a matrix column by column, each error made up for by the columns that are left: GPTQ.

The rounded weights Q of a projection should minimise tr((Q - W) M (Q - W)ᵀ), with M = E[x xᵀ] of its inputs: the mean
squared change of its output. With U the upper Cholesky factor of M⁻¹, the column j is rounded to its grid, and what
that changes goes into the columns k > j:

    W_k -= (W_j - Q_j) U_jk / U_jj,

which is the least squares solution for them (Frantar et al. 2022, arXiv 2210.17323; Hassibi and Stork 1993). Scales
are chosen before, from the weights alone, so that no column moves the grid of another.
"""

from __future__ import annotations

import torch

from seap_export.rounding.grid import BlockQuantization, best_scales, padded_blocks, short_scales

__all__ = ["round_columns"]

#: What is added to the diagonal of M, as a fraction of its mean, so that inputs that never vary can be inverted.
_DAMPING = 0.01
#: Columns after which the errors are passed on to all columns that follow.
_COLUMNS = 64
#: Rows that are rounded at a time: of a large vocabulary's table, several copies in float32 take gigabytes.
_ROWS = 8192


def round_columns(weight: torch.Tensor, moment: torch.Tensor, how: BlockQuantization) -> torch.Tensor:
    """The rounded matrix, float32 [out, in], on the grid.

    Args:
        weight: W, any float dtype [out, in].
        moment: M up to a factor, float64 [in, in], symmetric, which is overwritten.
        how: The grid.
    """
    spread = moment.diagonal().mean()
    moment.diagonal().add_(torch.where(spread > 0, _DAMPING * spread, torch.ones_like(spread)))
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moment)), upper=True).float()
    rounded = torch.empty(weight.shape, device=moment.device)
    for start in range(0, len(weight), _ROWS):
        rows = slice(start, start + _ROWS)
        rounded[rows] = _rounded(weight[rows].to(moment.device).float(), factor, how)
    return rounded


def _rounded(weight: torch.Tensor, factor: torch.Tensor, how: BlockQuantization) -> torch.Tensor:
    columns, top = weight.shape[1], (1 << how.bits) - 1
    blocks = padded_blocks(weight, how)
    scales, points = best_scales(blocks, how)
    steps, zeros = (each.squeeze(-1).repeat_interleave(how.block_size, 1) for each in (short_scales(scales), points))
    left, rounded = weight.clone(), torch.empty_like(weight)
    for start in range(0, columns, _COLUMNS):
        end = min(start + _COLUMNS, columns)
        errors = torch.empty(len(weight), end - start, device=weight.device)
        for column in range(start, end):
            step, zero = steps[:, column], zeros[:, column]
            level = (left[:, column] / step).round_().add_(zero).clamp_(0, top).sub_(zero)
            rounded[:, column] = level.mul_(step)
            error = (left[:, column] - rounded[:, column]) / factor[column, column]
            errors[:, column - start] = error
            left[:, column:end].addr_(error, factor[column, column:end], alpha=-1.0)
        left[:, end:] -= errors @ factor[start:end, end:]
    return rounded
