"""The pretended GPU finds what a real one would refuse, and computes what the CPU does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.stand_ins.cuda import CUDA, pretend_cuda


def here() -> torch.Tensor:
    return torch.arange(6.0).reshape(2, 3)


MIXED: dict[str, Callable[[torch.Tensor], object]] = {
    "sum": lambda there: there + here(),
    "in place": lambda there: here().add_(there),
    "product": lambda there: there @ here().T,
    "index": lambda there: there[:, torch.tensor([0])],
    "copy": lambda there: there.copy_(here()),
    "list": lambda there: torch.cat([there, here()]),
}


@pytest.mark.parametrize("case", MIXED)
def test_operands_on_two_devices_are_refused(case: str) -> None:
    with pretend_cuda() as device:
        there = here().to(device)
        with pytest.raises(RuntimeError, match=r"on cuda:0, but found one on cpu"):
            MIXED[case](there)


def test_values_are_those_of_the_cpu_there_and_back() -> None:
    with pretend_cuda() as device:
        there = here().to(device)
        assert there.device == torch.zeros(1, device=device).device == CUDA
        there[:, 1:] *= 2.0
        assert there.cpu().device.type == "cpu"
        assert there.cpu().tolist() == [[0.0, 2.0, 4.0], [3.0, 8.0, 10.0]]


def test_a_gradient_stays_there() -> None:
    with pretend_cuda() as device:
        there = here().to(device).requires_grad_(True)
        (gradient,) = torch.autograd.grad(there.square().sum(), there)
        assert gradient.device == CUDA
        assert torch.equal(gradient.cpu(), 2 * here())
