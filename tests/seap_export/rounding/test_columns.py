"""Columns make up for the errors of those before them."""

from __future__ import annotations

import pytest
import torch
from support.plans import random_projection
from support.product import dequantize, quantize

from seap_export.rounding import columns
from seap_export.rounding.columns import round_columns
from seap_export.rounding.grid import BlockQuantization, best_scales, on_grid, padded_blocks, short_scales

WAYS = [BlockQuantization(4), BlockQuantization(4, symmetric=False), BlockQuantization(4, 64)]


def nearest(weight: torch.Tensor, how: BlockQuantization) -> torch.Tensor:
    blocks = padded_blocks(weight, how)
    scales, points = best_scales(blocks, how)
    return on_grid(blocks, short_scales(scales), points, how.bits).flatten(1)[:, : weight.shape[1]]


def loss(weight: torch.Tensor, rounded: torch.Tensor, moment: torch.Tensor) -> float:
    change = (rounded - weight).double()
    return float((change @ moment * change).sum())


@pytest.mark.parametrize("how", WAYS, ids=str)
@pytest.mark.parametrize("channels", [40, 150])
def test_the_output_changes_less_than_with_the_nearest_levels(how: BlockQuantization, channels: int) -> None:
    weight, moment = random_projection(channels, tokens=4 * channels, out=20)
    rounded = round_columns(weight, moment.clone(), how)
    assert torch.equal(dequantize(quantize(rounded, how), how, channels), rounded)
    assert loss(weight, rounded, moment) < 0.85 * loss(weight, nearest(weight, how), moment)


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_inputs_that_do_not_depend_on_each_other_leave_the_nearest_levels(how: BlockQuantization) -> None:
    weight, _ = random_projection(96, out=20)
    moment = torch.diag(torch.linspace(0.1, 9.0, 96, dtype=torch.float64))
    assert torch.equal(round_columns(weight, moment, how), nearest(weight, how))


def test_it_is_the_least_squares_solution_for_the_columns_that_are_left() -> None:
    how = BlockQuantization(4)
    weight, moment = random_projection(70, tokens=300, out=3)
    damped = moment + 0.01 * moment.diagonal().mean() * torch.eye(70, dtype=torch.float64)
    rounded, left = torch.zeros(3, 70, dtype=torch.float64), weight.double()
    scales, _ = best_scales(padded_blocks(weight, how), how)
    steps = short_scales(scales).double().squeeze(-1).repeat_interleave(32, 1)
    for column in range(70):
        rounded[:, column] = (left[:, column] / steps[:, column]).round().clamp(-8, 7) * steps[:, column]
        done = rounded[:, : column + 1] - weight[:, : column + 1]
        rest = damped[column + 1 :, column + 1 :]
        moved = -done @ damped[: column + 1, column + 1 :] @ torch.linalg.inv(rest)
        left[:, column + 1 :] = weight[:, column + 1 :] + moved
    levels = round_columns(weight, moment, how).double()
    assert torch.allclose(levels, rounded, rtol=0.0, atol=1e-6)


def test_channels_that_are_always_zero_do_no_harm() -> None:
    how = BlockQuantization(4)
    weight, moment = random_projection(64, out=5)
    moment[10:20], moment[:, 10:20] = 0.0, 0.0
    assert torch.isfinite(round_columns(weight, moment, how)).all()
    assert torch.equal(round_columns(weight, torch.zeros_like(moment), how), nearest(weight, how))


def test_rows_do_not_depend_on_how_many_are_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, moment = random_projection(64, out=50)
    whole = round_columns(weight, moment.clone(), BlockQuantization(4))
    monkeypatch.setattr(columns, "_ROWS", 7)
    assert (round_columns(weight, moment, BlockQuantization(4)) == whole).float().mean() > 0.99
