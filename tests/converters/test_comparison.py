"""Weights may be as far from the model's as another machine's rounding, and no further."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from converters.comparison import Tolerance, are_as_near, other_numbers, worse_rows


def numbers(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_a_tolerance_is_of_the_largest_of_a_block() -> None:
    wanted = numbers(1, 100, 1, 1)
    stored = wanted + numbers(0.5, 0, 0.5, np.nan)
    assert Tolerance(0.01, 2).exceeded(stored, wanted).tolist() == [False, False, True, True]
    assert Tolerance(0.01, 1, tiny=0.6).exceeded(stored, wanted).tolist() == [False, False, False, True]


def test_rounded_weights_may_be_as_far_off_as_the_best() -> None:
    wanted = np.zeros((3, 2), np.float32)
    best = wanted + np.float32(0.5)
    stored = np.stack([-best[0], best[1] * 1.1, numbers(0.5, np.nan)])
    assert are_as_near(stored, best, wanted).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"), [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_a_number_may_be_one_unit_in_its_own_last_place_off(dtype: str, torch_dtype: torch.dtype) -> None:
    """However large others of its tensor are; rounding a row that is 1 % larger gives other numbers."""
    info = torch.finfo(torch_dtype)

    def complaint(wanted: torch.Tensor, stored: torch.Tensor) -> str | None:
        pieces = [(part.to(torch_dtype).float().numpy() for part in (wanted, stored))]
        return other_numbers("x", pieces, dtype)  # type: ignore[arg-type]

    few, many = torch.tensor([1.5, 1e-4, 0.0]), torch.tensor([1000.0]).repeat(64)
    assert complaint(few, few + torch.tensor([info.eps, 0, 0])) is None
    further = torch.tensor([max(2.1 * info.eps, 3e-6), 0, 0])
    assert "differs from the model's in 1 numbers" in str(complaint(few, few + further))
    assert complaint(few, few + torch.tensor([0, 0, info.smallest_normal * info.eps])) is None
    assert complaint(few, few + torch.tensor([0, 0, 1e-7 if dtype != "fp16" else 0])) is None  # beside 1.5
    row = torch.randn(576, generator=torch.Generator().manual_seed(0)) * 0.02
    assert "x" in str(complaint(torch.cat((many, row)), torch.cat((many, row * 1.01))))
    assert "NaN" in str(other_numbers("x", [(numbers(1), numbers(np.inf))], dtype))
    assert other_numbers("x", [(np.array([1]), np.array([2]))], dtype) == "'x' differs from the model's"


def test_a_row_on_other_levels_is_named() -> None:
    """Of 2,000 rows of one block of 32 numbers, those that are a level apart in one number."""
    best = np.zeros((2000, 32), np.float32)
    stored, scales = best.copy(), np.ones((2000, 1), np.float32)
    stored[:, 0] += 0.1
    stored[1500, 3] += 1
    line = worse_rows("x", 2000, lambda rows: (best[rows], stored[rows], scales[rows]))
    assert line == "'x' differs from the model's in 1 rows, for example row 1500"
    assert worse_rows("x", 1500, lambda rows: (best[rows], stored[rows], scales[rows])) is None
