"""Works on symmetric matrices in place: they are too large to be copied, and only half of each product is computed."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from seap_export.errors import UsageError

#: Rows or columns that are computed or moved at a time.
_STRIP = 512


def strips(channels: int) -> Iterator[slice]:
    """The strips of rows or columns that these functions work on."""
    for start in range(0, channels, _STRIP):
        yield slice(start, min(start + _STRIP, channels))


def cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """The lower Cholesky factor L of a small matrix; raises `UsageError` if it is not positive definite."""
    lower, failed = torch.linalg.cholesky_ex(matrix)
    _refuse(failed)
    return lower


def factorise(matrix: torch.Tensor) -> torch.Tensor:
    """The lower Cholesky factor of a symmetric matrix, in its memory; raises `UsageError` as `cholesky` does."""
    lower = matrix.mT  # the order of LAPACK, which then needs no copy
    failed = torch.empty((), dtype=torch.int32, device=matrix.device)
    torch.linalg.cholesky_ex(lower, out=(lower, failed))
    _refuse(failed)
    return lower


def invert(matrix: torch.Tensor) -> torch.Tensor:
    """The inverse of a symmetric matrix, in its memory; raises `UsageError` as `cholesky` does."""
    factor = factorise(matrix)
    return torch.cholesky_inverse(factor, out=factor).mT


def subtract_square(matrix: torch.Tensor, across: torch.Tensor) -> None:
    """Subtracts across^T across from a symmetric matrix: the upper triangle is computed, and then mirrored."""
    for strip in strips(len(matrix)):
        matrix[: strip.stop, strip].addmm_(across[:, : strip.stop].T, across[:, strip], alpha=-1.0)
        matrix[strip, : strip.start] = matrix[: strip.start, strip].T


def reduced(matrix: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """The kept rows and columns, ascending, moved to the front of the same memory."""
    # A row is never moved down, so the rows that are still to be moved are intact.
    front = matrix[: len(keep), : len(keep)]
    for strip in strips(len(keep)):
        front[strip] = matrix.index_select(0, keep[strip]).index_select(1, keep)
    return front


def permute(matrix: torch.Tensor, order: torch.Tensor) -> None:
    """Puts the rows and columns of a matrix into an order."""
    for strip in strips(len(order)):
        matrix[strip] = matrix[strip].index_select(1, order)
    for strip in strips(len(order)):
        matrix[:, strip] = matrix[:, strip].index_select(0, order)


def _refuse(failed: torch.Tensor) -> None:
    if failed:
        raise UsageError(
            "the ridge is too small for the covariance of these statistics; use a larger 'ridge' in the recipe"
        )
