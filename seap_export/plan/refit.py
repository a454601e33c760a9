"""The error that a projection is left with when input channels go and the others are refitted."""

from __future__ import annotations

import torch

from seap_export.errors import UsageError

__all__ = ["Refit"]

#: The refit shrinks to the channels that are left when they are fewer than this fraction of those it holds.
_DENSE = 0.8


class Refit:
    """A projection y = W x whose input channels are taken out one set after another, the others refitted each time.

    When the channels R are gone and K are left, the loss is the least of E|W_R x_R - D x_K|^2 + r |D|^2 over all
    D, with x centred (a bias takes the mean), that is, with S the covariance of x and r the ridge,

        loss(R) = tr(W_R (S_RR - S_RK (S_KK + r I)^-1 S_KR) W_R^T).

    Let A = S + r I. The Schur complement of A_KK in A is S_RR + r I - S_RK (A_KK)^-1 S_KR, and its inverse is the
    block R of the inverse of A. So removing the set Q from what is left increases the loss by

        tr(V_Q (P_QQ)^-1 V_Q^T) - r |W_Q|^2,

    with P the inverse of A over the channels left and V the refitted weight; then V_Q (P_QQ)^-1 P_Q: is taken from
    V, and P_:Q (P_QQ)^-1 P_Q: from P. This is the Optimal Brain Surgeon (Hassibi and Stork 1993, "Second order
    derivatives for network pruning", after LeCun et al. 1990, "Optimal Brain Damage") for sets of weights, whose
    second-order error is exact here because the projection is linear. The ridge makes A regular when there are
    fewer tokens than channels. It does not count for the channels that go, so that a loss can fall, by r |W_Q|^2
    at most.
    """

    def __init__(self, weight: torch.Tensor, covariance: torch.Tensor, ridge: float) -> None:
        """Takes the weight [out, channels] and the centred covariance of its input, float64 [channels, channels].

        `ridge` is r, in the units of the covariance.

        Raises:
            UsageError: The covariance plus the ridge is not positive definite.
        """
        regular = covariance.clone()
        regular.diagonal().add_(ridge)
        #: P over the rows held, float64; rows of removed channels are 0.
        self._inverse = torch.cholesky_inverse(_cholesky(regular))
        #: V over the rows held, float64 [out, rows].
        self._weight = weight.to(torch.float64, copy=True)
        self._removed_alone = ridge * self._weight.square().sum(0)
        #: The channel of each row held, and the row of each channel, -1 once it is not held any more.
        self._channels = torch.arange(weight.shape[1])
        self._rows = torch.arange(weight.shape[1])
        self._left = torch.ones(weight.shape[1], dtype=torch.bool)

    def copy(self) -> Refit:
        """The same state, to be continued in another way."""
        other = object.__new__(Refit)
        for name, value in vars(self).items():
            setattr(other, name, value.clone())
        return other

    @property
    def left(self) -> torch.Tensor:
        """Channels that are left, int64, ascending."""
        return torch.nonzero(self._left)[:, 0]

    def increases(self) -> torch.Tensor:
        """By how much the loss would grow for each single channel of `left`, float64."""
        left = self.left
        rows = self._rows[left]
        squares = self._weight.square().sum(0)[rows]
        return squares / self._inverse.diagonal()[rows].clamp_min(1e-300) - self._removed_alone[left]

    def increase(self, channels: torch.Tensor) -> float:
        """By how much the loss would grow if this set were removed at once."""
        rows = self._rows[channels]
        factor = _cholesky(self._inverse[rows[:, None], rows])
        moved = torch.linalg.solve_triangular(factor, self._weight[:, rows].T, upper=False)
        return float(moved.square().sum() - self._removed_alone[channels].sum())

    def remove(self, channels: torch.Tensor) -> torch.Tensor:
        """Removes channels; by how much the loss has grown after the first, the first two, ..., float64.

        The partial sums come from the Cholesky factor of P_QQ, whose leading blocks are the factors of the
        leading blocks.
        """
        rows = self._rows[channels]
        across = self._inverse[rows]
        factor = _cholesky(across[:, rows])
        across = torch.linalg.solve_triangular(factor, across, upper=False)
        moved = torch.linalg.solve_triangular(factor, self._weight[:, rows].T, upper=False)
        self._inverse.addmm_(across.T, across, alpha=-1.0)
        self._weight.addmm_(moved.T, across, alpha=-1.0)
        self._inverse[rows] = 0.0
        self._inverse[:, rows] = 0.0
        self._weight[:, rows] = 0.0
        self._left[channels] = False
        self._compact()
        return (moved.square().sum(1) - self._removed_alone[channels]).cumsum(0)

    def _compact(self) -> None:
        """Lets go of the rows of removed channels once they are many."""
        left = self.left
        if len(left) < _DENSE * len(self._channels):
            rows = self._rows[left]
            self._inverse = self._inverse[rows[:, None], rows]
            self._weight = self._weight[:, rows]
            self._channels = left
            self._rows = torch.full_like(self._rows, -1)
            self._rows[left] = torch.arange(len(left))


def _cholesky(matrix: torch.Tensor) -> torch.Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        raise UsageError("the ridge is too small for the covariance of these statistics; give a larger one")
    return factor
