"""Elimination stays on its device: on fake tensors, mixing devices is an error, as it is on a GPU."""

from __future__ import annotations

import pytest
import torch
from support.stand_ins.cuda import fake_tensors

from seap_export.pruning.plan.elimination import symmetric
from seap_export.pruning.plan.elimination.channels import removal_order
from seap_export.pruning.plan.elimination.head_sets import HeadGroups
from seap_export.pruning.plan.elimination.refit import Refit, removal_losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_computed_is_there(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors have no values, so whether a factorisation succeeded is not asked."""
    monkeypatch.setattr(symmetric, "_refuse", lambda failed: None)
    with fake_tensors():
        weight = torch.empty(7, 1200, dtype=torch.bfloat16, device="cuda")

        def covariance() -> torch.Tensor:
            return torch.empty(1200, 1200, dtype=dtype, device="cuda")

        order = removal_order(weight, covariance(), 1e-4, 0.125)
        assert (order.device.type, order.shape) == ("cuda", (1200,))
        losses = removal_losses(weight, covariance(), 1e-4, torch.arange(1200, device="cuda"))
        assert (losses.device.type, losses.shape, losses.dtype) == ("cuda", (1201,), torch.float64)
        refit = Refit(weight, covariance(), 1e-4).copy()
        heads = HeadGroups(1, 300, 4).channels([2, 5], torch.device("cuda"))
        assert refit.increase(heads).device.type == refit.remove(heads).device.type == "cuda"
