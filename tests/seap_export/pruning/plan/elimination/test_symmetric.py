"""Blocks of any size give what whole matrices give."""

from __future__ import annotations

import pytest
import torch
from support.plans import random_projection

from seap_export.errors import UsageError
from seap_export.pruning.plan.elimination import symmetric

CHANNELS = 23


@pytest.fixture(params=[1, 4, 23, 512])
def regular(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """A positive definite matrix, and strips of several widths."""
    monkeypatch.setattr(symmetric, "_STRIP", request.param)
    _, covariance = random_projection(CHANNELS, 10)
    covariance.diagonal().add_(1e-4 * covariance.trace())
    return covariance


def test_the_inverse_and_the_factor_take_the_place_of_the_matrix(regular: torch.Tensor) -> None:
    for work, known in ((symmetric.invert, torch.linalg.inv), (symmetric.factorise, torch.linalg.cholesky)):
        given = regular.clone()
        result, expected = work(given), known(regular)
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9 * float(expected.max()))
        assert result.data_ptr() == given.data_ptr()
        with pytest.raises(UsageError, match="ridge is too small"):  # it is not positive definite
            work(regular - 2.0 * torch.diag(regular.diagonal()))


def test_a_square_is_subtracted_and_rows_and_columns_move_within_their_memory(regular: torch.Tensor) -> None:
    across = torch.randn(3, CHANNELS, dtype=torch.float64)
    expected = regular - across.T @ across
    symmetric.subtract_square(regular, across)
    torch.testing.assert_close(regular, expected)
    order, keep = torch.randperm(CHANNELS), torch.tensor([1, 2, 5, 6, 7, 11, 20, 22])
    expected = regular[order][:, order]
    symmetric.permute(regular, order)
    assert torch.equal(regular, expected)
    front = symmetric.reduced(regular, keep)
    assert torch.equal(front, expected[keep][:, keep])
    assert front.data_ptr() == regular.data_ptr()
