"""Elimination stays on its device: on fake tensors, mixing devices is an error, as it is on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.stand_ins.cuda import fake_tensors

from seap_export.pruning.plan.elimination import symmetric
from seap_export.pruning.plan.elimination.channels import removal_order
from seap_export.pruning.plan.elimination.head_sets import HeadGroups
from seap_export.pruning.plan.elimination.refit import Refit, removal_losses

CHANNELS = 1200


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Fake tensors have no values, so whether a factorisation succeeded is not asked."""
    monkeypatch.setattr(symmetric, "_refuse", lambda failed: None)
    with fake_tensors():
        yield torch.device("cuda")


def projection(device: torch.device, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.empty(7, CHANNELS, dtype=torch.bfloat16, device=device)
    return weight, torch.empty(CHANNELS, CHANNELS, dtype=dtype, device=device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_order_of_neurons(cuda: torch.device, dtype: torch.dtype) -> None:
    order = removal_order(*projection(cuda, dtype), 1e-4, 0.125)
    assert (order.device.type, order.shape) == ("cuda", (CHANNELS,))


def test_the_losses(cuda: torch.device) -> None:
    losses = removal_losses(*projection(cuda), 1e-4, torch.arange(CHANNELS, device=cuda))
    assert (losses.device.type, losses.shape, losses.dtype) == ("cuda", (CHANNELS + 1,), torch.float64)


def test_sets_of_heads(cuda: torch.device) -> None:
    refit = Refit(*projection(cuda), 1e-4).copy()
    heads = HeadGroups(1, 300, 4).channels([2, 5], cuda)
    assert refit.increase(heads).device.type == refit.remove(heads).device.type == "cuda"
