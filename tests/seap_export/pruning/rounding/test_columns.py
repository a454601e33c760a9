"""Columns make up for the errors of those before them."""

from __future__ import annotations

import pytest
import torch
from support.plans import random_projection
from support.product import BlockQuantization, dequantize, quantize, round_columns

from seap_export.pruning.rounding import columns
from seap_export.pruning.rounding.scales import best_scales, kept_scales, on_grid, padded_blocks

WAYS = [BlockQuantization(4), BlockQuantization(4, symmetric=False), BlockQuantization(4, 64, positive=True)]
WAYS.append(BlockQuantization(4, rows=True))


def nearest(weight: torch.Tensor, how: BlockQuantization, power: torch.Tensor | None = None) -> torch.Tensor:
    blocks = padded_blocks(weight, how)
    importance = None if power is None else padded_blocks(power[None].float(), how)[0]
    scales, points = best_scales(blocks, how, importance)
    return on_grid(blocks, kept_scales(scales, how), points, how).flatten(1)[:, : weight.shape[1]]


def loss(weight: torch.Tensor, rounded: torch.Tensor, moment: torch.Tensor) -> float:
    change = (rounded - weight).double()
    return float((change @ moment * change).sum())


@pytest.mark.parametrize("how", WAYS, ids=str)
@pytest.mark.parametrize("channels", [40, 150])
def test_the_output_changes_less_than_with_the_nearest_levels(
    how: BlockQuantization, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, moment = random_projection(channels, tokens=4 * channels, out=20)
    rounded = round_columns(weight, moment.clone(), how)
    assert torch.equal(dequantize(quantize(rounded, how), how, channels), rounded)
    assert loss(weight, rounded, moment) < 0.85 * loss(weight, nearest(weight, how), moment)
    monkeypatch.setattr(columns, "_ROWS", 7)  # how many rows are done at once
    assert (round_columns(weight, moment.clone(), how) == rounded).float().mean() > 0.99
    # inputs that vary less than their sums are exact
    moment -= 0.1 * moment.diagonal().mean() * torch.eye(channels, dtype=torch.float64)
    rounded = round_columns(weight, moment, how)
    assert torch.equal(dequantize(quantize(rounded, how), how, channels), rounded)


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_inputs_that_do_not_depend_on_each_other_leave_the_nearest_levels(how: BlockQuantization) -> None:
    weight, moment = random_projection(96, out=20)
    power = torch.linspace(0.1, 9.0, 96, dtype=torch.float64)
    expected = nearest(weight, how, power + 0.01 * power.mean())
    assert torch.equal(round_columns(weight, torch.diag(power), how), expected)
    assert not torch.equal(expected, nearest(weight, how))
    assert torch.equal(round_columns(weight, torch.zeros_like(moment), how), nearest(weight, how, torch.ones(96)))
    moment[10:20], moment[:, 10:20] = 0.0, 0.0  # channels that are always zero do no harm
    assert torch.isfinite(round_columns(weight, moment, how)).all()


def test_it_is_the_least_squares_solution_for_the_columns_that_are_left() -> None:
    how = BlockQuantization(4)
    weight, moment = random_projection(70, tokens=300, out=3)
    damped = moment + 0.01 * moment.diagonal().mean() * torch.eye(70, dtype=torch.float64)
    power = damped.diagonal()
    blocks = sorted(torch.arange(70).split(32), key=lambda block: -float(power[block].mean()))
    order = torch.cat([block[power[block].argsort(descending=True)] for block in blocks]).tolist()
    rounded, left = torch.zeros(3, 70, dtype=torch.float64), weight.double()
    steps = torch.zeros(3, dtype=torch.float64)
    for number, column in enumerate(order):
        done, rest = order[: number + 1], order[number + 1 :]
        if (number == 0) or (column // 32 != order[number - 1] // 32):
            block = [other for other in order[number:] if other // 32 == column // 32]
            # what is left of the error of each column, if all after it make up for it
            remains = [
                1 / torch.linalg.inv(damped[order[at:]][:, order[at:]])[0, 0]
                for at in range(number, number + len(block))
            ]
            importance = padded_blocks(torch.stack(remains)[None].float(), how)[0]
            scales, _ = best_scales(padded_blocks(left[:, block].float(), how), how, importance)
            steps = kept_scales(scales, how).double().flatten()
        rounded[:, column] = (left[:, column] / steps).round().clamp(-8, 7) * steps
        if rest:
            changes = (rounded - weight)[:, done] @ damped[done][:, rest]
            left[:, rest] = weight[:, rest] - changes @ torch.linalg.inv(damped[rest][:, rest])
    levels = round_columns(weight, moment, how).double()
    assert torch.allclose(levels, rounded, rtol=0.0, atol=1e-6)
