"""Refits an output projection to the channels that are left, in closed form.

The projection y = W x + b loses input channels. With x the kept channels and W_K their weights, the new weights
minimise

    E |y - W' x - b'|² + r |W' - W_K|²_F,   which gives   W' = W_K + (S_yx - W_K S_xx) (S_xx + r I)⁻¹
                                                    and   b' = E[y] - W' E[x],

with S the covariances: least squares with a ridge towards the original weights (Hoerl and Kennard 1970), computed as
(S_yx + r W_K) (S_xx + r I)⁻¹, which is the same. For r to infinity, W' is W_K and b' the compensation bias of SEAP
and FLAP. So r interpolates between the two, and has to grow when there are few data: r = ridge x tr(S_xx) / tokens.

Where the projection can have no bias, b' is 0 and the second moments take the place of the covariances:

    W' = W_K + (M_yx - W_K M_xx) (M_xx + r I)⁻¹,   M_xx = S_xx + E[x] E[x]ᵀ,   M_yx = S_yx + E[y] E[x]ᵀ,

which minimises E |y - W' x|² + r |W' - W_K|²_F, with r = ridge x tr(M_xx) / tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from seap_export.pruning.plan.elimination.symmetric import factorise


@dataclass(frozen=True)
class OutputFit:
    """New weights [out, kept channels] of an output projection, and its bias [out] if it may have one; float64."""

    weight: torch.Tensor
    bias: torch.Tensor | None


def mean_fit(weight: torch.Tensor, bias: torch.Tensor | None, mean: torch.Tensor, kept: torch.Tensor) -> OutputFit:
    """The original weights of the kept channels; the mean contribution of the others goes into the bias.

    b' = b + W[:, removed] E[x_removed], in float64 (FLAP, arXiv 2312.11983, section 3.3).

    Args:
        weight: W, [out, channels].
        bias: b, [out], or None.
        mean: E[x] of all channels, float64 [channels].
        kept: Indices of the kept channels.
    """
    removed = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
    removed.index_fill_(0, kept, False)
    moved = weight[:, removed].double() @ mean[removed]
    return OutputFit(weight[:, kept].double(), moved if bias is None else moved + bias.double())


def refit_from_dense(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    covariance: torch.Tensor,
    kept: torch.Tensor,
    *,
    ridge: float,
    tokens: float,
    intercept: bool = True,
) -> OutputFit:
    """The fit to the dense layer's output, from the covariance of all its channels.

    Args:
        weight: W, [out, channels].
        bias: b, [out], or None.
        mean: E[x], float64 [channels].
        covariance: Covariance of all channels, float64 [channels, channels].
        kept: Indices of the kept channels.
        tokens: Number of tokens that the covariance was computed from.
        intercept: Whether the fit may have a bias; it may where the dense layer has one.
    """
    if bias is not None and not intercept:
        raise ValueError("a projection with a bias has a place for the bias of the fit")
    output_mean = weight.double() @ mean
    return refit(
        weight[:, kept].double(),
        mean[kept],
        covariance[kept][:, kept],
        output_mean if bias is None else output_mean + bias.double(),
        weight.double() @ covariance[:, kept],
        ridge=ridge,
        tokens=tokens,
        intercept=intercept,
    )


def refit(
    weight: torch.Tensor,
    mean: torch.Tensor,
    covariance: torch.Tensor,
    output_mean: torch.Tensor,
    cross_covariance: torch.Tensor,
    *,
    ridge: float,
    tokens: float,
    intercept: bool = True,
) -> OutputFit:
    """The fit to any output y.

    Args:
        weight: W_K, the original weights of the kept channels, float64 [out, kept].
        mean: E[x], float64 [kept].
        covariance: S_xx, float64 [kept, kept], which is overwritten: it may be the largest matrix of all.
        output_mean: E[y], float64 [out].
        cross_covariance: S_yx, float64 [out, kept], which is overwritten.
        ridge: Strength of the ridge, positive.
        tokens: Number of tokens that the covariances were computed from.
        intercept: Whether the fit may have a bias.

    Raises:
        UsageError: The covariance plus the ridge is not positive definite, because of rounding when
            there are fewer tokens than channels.
    """
    if not intercept:
        covariance.addr_(mean, mean)
        cross_covariance.addr_(output_mean, mean)
    strength = ridge * float(covariance.trace()) / tokens
    if strength > 0.0:
        covariance.diagonal().add_(strength)
        weight = solved(covariance, cross_covariance.add_(weight, alpha=strength))
    return OutputFit(weight, output_mean - weight @ mean if intercept else None)


def solved(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """R M⁻¹ with M symmetric [n, n] and R [rows, n], float64 and contiguous, in their memory."""
    factor, transposed = factorise(matrix), right.T
    for side, upper in ((factor, False), (factor.mT, True)):  # `cholesky_solve` would copy both matrices
        torch.linalg.solve_triangular(side, transposed, upper=upper, out=transposed)
    return transposed.T
