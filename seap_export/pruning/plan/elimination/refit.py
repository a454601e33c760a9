"""Computes the error of a projection when some of its input channels are removed and the others refitted."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from seap_export.pruning.plan.elimination.symmetric import (
    cholesky,
    factorise,
    invert,
    permute,
    reduced,
    strips,
    subtract_square,
)


class Refit:
    """A projection y = W x whose input channels are removed set by set, the others refitted each time.

    When the channels R are gone and K are left, the loss is the minimum of E|W_R x_R - D x_K|^2 + r |D|^2 over all
    D, with x centred (a bias takes the mean). With S the covariance of x and r the ridge, it is

        loss(R) = tr(W_R (S_RR - S_RK (S_KK + r I)^-1 S_KR) W_R^T).

    Let A = S + r I. The Schur complement of A_KK in A is S_RR + r I - S_RK (A_KK)^-1 S_KR, and its inverse is the
    block R of the inverse of A. So removing the set Q from what is left increases the loss by

        tr(V_Q (P_QQ)^-1 V_Q^T) - r |W_Q|^2,

    where P is the inverse of A over the channels left and V is the refitted weight. The update subtracts
    V_Q (P_QQ)^-1 P_Q: from V and P_:Q (P_QQ)^-1 P_Q: from P. This is the Optimal Brain Surgeon (Hassibi and Stork
    1993, "Second order derivatives for network pruning", after LeCun et al. 1990, "Optimal Brain Damage") for sets
    of weights. Its second-order error is exact here because the projection is linear. The ridge makes A regular
    when there are fewer tokens than channels. It does not apply to the removed channels, so a loss can fall, by
    r |W_Q|^2 at most.
    """

    def __init__(self, weight: torch.Tensor, covariance: torch.Tensor, ridge: float) -> None:
        """Starts with all channels.

        Args:
            weight: W, [out, channels], on the covariance's device.
            covariance: S, centred, [channels, channels], contiguous. It is overwritten. All is computed in its
                precision: the relative error of P is about that precision times the condition number of A, which is
                at most 1 + tr(S) / r.
            ridge: r, in the units of the covariance.
        """
        covariance.diagonal().add_(ridge)
        #: P over the channels left, and V, [out, channels left].
        self._inverse = invert(covariance)
        self._weight = weight.to(covariance.dtype, copy=True)
        self._removed_alone = ridge * self._weight.square().sum(0)
        self._left = torch.arange(weight.shape[1], device=weight.device)

    def copy(self) -> Refit:
        """A copy of this state, which changes by itself."""
        other = object.__new__(Refit)
        vars(other).update(vars(self))
        other._inverse = self._inverse.clone()  # the only tensor that is changed in place
        return other

    @property
    def left(self) -> torch.Tensor:
        """The channels that are left, int64, ascending."""
        return self._left

    def increases(self) -> torch.Tensor:
        """The increase in loss if each single channel of `left` were removed."""
        smallest = torch.finfo(self._inverse.dtype).tiny
        return self._weight.square().sum(0) / self._inverse.diagonal().clamp_min(smallest) - self._removed_alone

    def increase(self, channels: torch.Tensor) -> torch.Tensor:
        """The increase in loss if this set were removed at once; a scalar."""
        rows = torch.searchsorted(self._left, channels)
        factor = cholesky(_block(self._inverse, rows, rows))
        moved = torch.linalg.solve_triangular(factor, self._weight.index_select(1, rows).T, upper=False)
        return moved.square().sum() - self._removed_alone[rows].sum()

    def remove(self, channels: torch.Tensor) -> torch.Tensor:
        """Removes a set of channels, refits the others and returns the increase in loss, a scalar."""
        rows = torch.searchsorted(self._left, channels)
        gone = torch.zeros(len(self._left), dtype=torch.int8, device=rows.device)
        gone[rows] = 1
        keep = torch.sort(gone, stable=True).indices[: len(gone) - len(rows)]
        factor = cholesky(_block(self._inverse, rows, rows))
        across = torch.linalg.solve_triangular(factor, _block(self._inverse, rows, keep), upper=False)
        moved = torch.linalg.solve_triangular(factor, self._weight.index_select(1, rows).T, upper=False)
        self._inverse = reduced(self._inverse, keep)
        subtract_square(self._inverse, across)
        self._weight = self._weight.index_select(1, keep).addmm_(moved.T, across, alpha=-1.0)
        increase = moved.square().sum() - self._removed_alone[rows].sum()
        self._removed_alone = self._removed_alone[keep]
        self._left = self._left[keep]
        return increase


def removal_losses(weight: torch.Tensor, covariance: torch.Tensor, ridge: float, order: torch.Tensor) -> torch.Tensor:
    """The loss of `Refit` for every number of channels kept, given the order in which they are removed.

    Let A = L L^T be the Cholesky factorisation with the channels in `order`. For any number k, the trailing block
    L_RR of L is the factor of the Schur complement of A_KK, with K the first k channels and R the others, so that

        loss(R) = |W_R L_RR|^2 - r |W_R|^2,

    and W_R L_RR consists of the last columns of W L, whatever k is. One factorisation gives all losses.

    Args:
        weight: W, [out, channels], on the covariance's device.
        covariance: S, centred, [channels, channels], contiguous. It is overwritten. All but the sum over channels is
            computed in its precision.
        ridge: r, in the units of the covariance.
        order: All channels, the last removed first.

    Returns:
        The loss when only the first k channels of the order are kept, float64 [channels + 1].
    """
    permute(covariance, order)
    covariance.diagonal().add_(ridge)
    factor = factorise(covariance)
    ordered = weight.index_select(1, order).to(covariance.dtype)
    increases = -ridge * ordered.double().square().sum(0)
    for strip in strips(len(order)):  # what is left of the diagonal is 0
        increases[strip] += (ordered[:, strip.start :] @ factor[strip.start :, strip]).square().sum(0)
    return torch.cat([increases.flip(0).cumsum(0).flip(0), increases.new_zeros(1)])


class SetLosses:
    """The loss of `Refit` for any set of heads, each computed anew from matrices of the smaller of K and R.

    Let G = W^T W and the other symbols be as in `Refit`. If R is the smaller, the loss is the increase over the dense
    layer,

        loss = tr((P_RR)^-1 G_RR) - r tr(G_RR).

    If K is the smaller, V = W_K + D minimises E|W x - V x_K|^2 + r |V - W_K|^2. The normal equations of this least
    squares problem have the matrix A_KK and the right-hand side (W A)_K, so that

        loss = tr(S G) + r tr(G_KK) - tr((A_KK)^-1 (A G A)_KK).
    """

    def __init__(self, weight: torch.Tensor, covariance: torch.Tensor, ridge: float, width: int) -> None:
        """Prepares the matrices; raises `UsageError` as `Refit` does.

        Args:
            weight: W, [out, channels], on the covariance's device.
            covariance: S, float64 [channels, channels], contiguous. It is overwritten.
            ridge: r, in the units of the covariance.
            width: Consecutive channels that are kept or removed together; a head's.
        """
        weight, self._width = weight.double(), width
        self._regular = covariance
        self._regular.diagonal().add_(ridge)
        self._inverse = invert(self._regular.clone())
        self._squares = weight.T @ weight
        self._norms = ridge * self._squares.diagonal().view(-1, width).sum(1)
        fitted = weight @ self._regular
        self._products = fitted.T @ fitted
        self._all = float((fitted * weight).sum() - self._norms.sum())

    def loss(self, kept: Sequence[int]) -> float:
        """The loss when only these heads are kept."""
        removed = [head for head in range(len(self._norms)) if head not in kept]
        if len(removed) < len(kept):
            return self._trace(self._inverse, self._squares, removed) - float(self._norms[removed].sum())
        explained = self._trace(self._regular, self._products, kept)
        return self._all + float(self._norms[list(kept)].sum()) - explained

    def _trace(self, divisor: torch.Tensor, dividend: torch.Tensor, heads: Sequence[int]) -> float:
        """tr(D^-1 M), with D and M the blocks of some heads of two symmetric matrices."""
        if not heads:
            return 0.0
        inverse = torch.cholesky_inverse(cholesky(self._of_heads(divisor, heads)))
        return float(torch.dot(inverse.flatten(), self._of_heads(dividend, heads).flatten()))

    def _of_heads(self, matrix: torch.Tensor, heads: Sequence[int]) -> torch.Tensor:
        """The rows and columns of some heads; faster than gathering channel by channel."""
        index, size = torch.tensor(heads, device=matrix.device), len(heads) * self._width
        parts = matrix.view(len(self._norms), self._width, len(self._norms), self._width)
        return parts.index_select(0, index).index_select(2, index).reshape(size, size)


def _block(matrix: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """A copy of some rows and columns; twice as fast as `matrix[rows[:, None], columns]`."""
    return matrix.index_select(0, rows).index_select(1, columns)
