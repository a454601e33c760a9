"""The error of a projection when some of its input channels are removed and the others refitted."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from seap_export.errors import UsageError

__all__ = ["Refit", "SetLosses", "removal_losses"]

#: Columns of a product with a triangular matrix that are computed at a time.
_STRIP = 256


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

    def __init__(
        self, weight: torch.Tensor, covariance: torch.Tensor, ridge: float, dtype: torch.dtype = torch.float64
    ) -> None:
        """Starts with all channels.

        Args:
            weight: W, [out, channels].
            covariance: S, centred, float64 [channels, channels].
            ridge: r, in the units of the covariance.
            dtype: The precision to compute in. The relative error of P is about the precision times the condition
                number of A, which is at most 1 + tr(S) / r.

        Raises:
            UsageError: The covariance plus the ridge is not positive definite.
        """
        regular = covariance.to(dtype, copy=True)
        regular.diagonal().add_(ridge)
        #: P over the channels left, and V, [out, channels left].
        self._inverse = torch.cholesky_inverse(_cholesky(regular))
        self._weight = weight.to(dtype, copy=True)
        self._removed_alone = ridge * self._weight.square().sum(0)
        self._left = torch.arange(weight.shape[1])

    def copy(self) -> Refit:
        """The same state, independent of this one."""
        other = object.__new__(Refit)
        vars(other).update(vars(self))  # no tensor is changed in place
        return other

    @property
    def left(self) -> torch.Tensor:
        """The channels that are left, int64, ascending."""
        return self._left

    def increases(self) -> torch.Tensor:
        """The increase in loss if each single channel of `left` were removed."""
        smallest = torch.finfo(self._inverse.dtype).tiny
        return self._weight.square().sum(0) / self._inverse.diagonal().clamp_min(smallest) - self._removed_alone

    def increase(self, channels: torch.Tensor) -> float:
        """The increase in loss if this set were removed at once."""
        rows = torch.searchsorted(self._left, channels)
        factor = _cholesky(_block(self._inverse, rows, rows))
        moved = torch.linalg.solve_triangular(factor, self._weight[:, rows].T, upper=False)
        return float(moved.square().sum() - self._removed_alone[rows].sum())

    def remove(self, channels: torch.Tensor) -> float:
        """Removes a set of channels, refits the others and returns the increase in loss."""
        rows = torch.searchsorted(self._left, channels)
        stays = torch.ones(len(self._left), dtype=torch.bool)
        stays[rows] = False
        keep = torch.nonzero(stays)[:, 0]
        factor = _cholesky(_block(self._inverse, rows, rows))
        across = torch.linalg.solve_triangular(factor, _block(self._inverse, rows, keep), upper=False)
        moved = torch.linalg.solve_triangular(factor, self._weight[:, rows].T, upper=False)
        self._inverse = _block(self._inverse, keep, keep).addmm_(across.T, across, alpha=-1.0)
        self._weight = self._weight.index_select(1, keep).addmm_(moved.T, across, alpha=-1.0)
        increase = float(moved.square().sum() - self._removed_alone[rows].sum())
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
        weight: W, [out, channels].
        covariance: S, centred, float64 [channels, channels].
        ridge: r, in the units of the covariance.
        order: All channels, the last removed first.

    Returns:
        The loss when only the first k channels of the order are kept, float64 [channels + 1].

    Raises:
        UsageError: The covariance plus the ridge is not positive definite.
    """
    regular = _block(covariance, order, order)
    regular.diagonal().add_(ridge)
    factor = _cholesky(regular)
    ordered = weight.index_select(1, order).double()
    increases = -ridge * ordered.square().sum(0)
    for start in range(0, len(order), _STRIP):  # what is left of the diagonal is 0
        strip = slice(start, start + _STRIP)
        increases[strip] += (ordered[:, start:] @ factor[start:, strip]).square().sum(0)
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
            weight: W, [out, channels].
            covariance: S, float64 [channels, channels].
            ridge: r, in the units of the covariance.
            width: Consecutive channels that are kept or removed together; a head's.
        """
        weight, self._width = weight.double(), width
        self._regular = covariance.clone()
        self._regular.diagonal().add_(ridge)
        self._inverse = torch.cholesky_inverse(_cholesky(self._regular))
        self._squares = weight.T @ weight
        self._norms = ridge * self._squares.diagonal().unflatten(0, (-1, width)).sum(1)
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
        inverse = torch.cholesky_inverse(_cholesky(self._of_heads(divisor, heads)))
        return float(torch.dot(inverse.flatten(), self._of_heads(dividend, heads).flatten()))

    def _of_heads(self, matrix: torch.Tensor, heads: Sequence[int]) -> torch.Tensor:
        """The rows and columns of some heads; faster than gathering channel by channel."""
        index, size = torch.tensor(heads), len(heads) * self._width
        parts = matrix.view(len(self._norms), self._width, len(self._norms), self._width)
        return parts.index_select(0, index).index_select(2, index).reshape(size, size)


def _block(matrix: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """A copy of some rows and columns; twice as fast as `matrix[rows[:, None], columns]`."""
    return matrix.index_select(0, rows).index_select(1, columns)


def _cholesky(matrix: torch.Tensor) -> torch.Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        raise UsageError(
            "the ridge is too small for the covariance of these statistics; use a larger 'ridge' in the recipe"
        )
    return factor
