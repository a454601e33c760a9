"""Scales of blocks, matrices that are on a grid already, which grid a matrix gets, and columns."""

from __future__ import annotations

import itertools

import gguf.quants
import pytest
import torch
from support.plans import random_projection
from support.product import BlockQuantization, TableRows, dequantize, quantize, round_columns

from seap_export.pruning.rounding import columns
from seap_export.pruning.rounding.grid import CURVE
from seap_export.pruning.rounding.scales import (
    MOST_STEPS,
    best_scales,
    kept_scales,
    on_grid,
    padded_blocks,
    row_steps,
    short_scales,
)

WAYS = [BlockQuantization(4, size, symmetric) for size, symmetric in itertools.product((32, 128), (True, False))]
WAYS.append(BlockQuantization(4, positive=True))


def some_levels(how: BlockQuantization, count: int, seed: int) -> torch.Tensor:
    """Levels of ten blocks that span `count` steps, short scales of either sign, and the matrix that they make."""
    generator = torch.Generator().manual_seed(seed)
    low = -int(torch.randint(0, count + 1, (1,), generator=generator))
    low = -((count + 1) // 2) if how.positive else -(count // 2) if how.symmetric else low
    drawn = torch.randint(low, low + count + 1, (5, 2, how.block_size), generator=generator).float()
    scales = short_scales(torch.rand(5, 2, 1, generator=generator) * 0.1 + 1e-3)
    signs = torch.randint(0, 2, (5, 2, 1), generator=generator).float() * 2 - 1
    return (drawn * scales * (signs if how.symmetric and not how.positive else 1.0)).flatten(1)


@pytest.mark.parametrize("how", WAYS, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 11, 14, 15])
def test_a_matrix_on_a_grid_keeps_its_levels(how: BlockQuantization, count: int) -> None:
    weights = some_levels(how, count, seed=count)
    blocks = padded_blocks(weights, how)
    scales, points = best_scales(blocks, how)
    assert torch.equal(on_grid(blocks, scales, points, how).flatten(1), weights)
    assert not how.positive or (scales > 0).all()
    # and once more, when powers of two were taken into it and scales are stored in 16 bits
    scales, points = best_scales(blocks / 64, how)
    assert torch.equal(on_grid(blocks / 64, scales.bfloat16().float(), points, how).flatten(1) * 64, weights)
    # a single weight off the grid is not taken for one on it
    if count == 7:
        off = weights.clone()
        off[:, 9] += 0.3 * weights.abs().max(1).values
        blocks = padded_blocks(off, how)
        assert (on_grid(blocks, *best_scales(blocks, how), how) != blocks)[:, 0].any(-1).all()


def test_scales_of_other_matrices_are_the_best_that_float16_holds() -> None:
    weights = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    blocks = padded_blocks(weights, WAYS[0])
    full = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)) / -8
    full = full.half().float()
    tried = torch.stack([(full * (1 - 0.04 * step)).half().float() for step in range(9)])
    errors = torch.stack(
        [((blocks / scale).round().clamp(-8, 7) * scale - blocks).square().sum(-1, keepdim=True) for scale in tried]
    )
    assert torch.equal(best_scales(blocks, WAYS[0])[0], tried.gather(0, errors.argmin(0)[None])[0])


def test_short_scales_are_held_by_all_float_types() -> None:
    """A block of few levels keeps its step, and where all scales are above zero they clip nothing of either sign."""
    for how, number in ((WAYS[0], 7), (WAYS[1], 15)):
        block = torch.zeros(1, 1, how.block_size)
        block[..., [3, 9]] = number * 0.01171875  # 1.5 / 128; that many take more digits than bfloat16 has
        scales, points = best_scales(block, how)
        assert torch.equal(short_scales(scales), scales)
        assert torch.equal(on_grid(block, scales, points, how), block)
    blocks, how = torch.tensor([[1.0], [-1.0]])[:, :, None] * torch.linspace(-1.0, 0.5, 32), WAYS[-1]
    scales, points = best_scales(blocks, how)
    assert (scales > 0).all()
    assert (on_grid(blocks, scales, points, how) - blocks).abs().max() < 1 / 12  # 1 / 7 and 1 / 8 of the largest
    given = torch.cat([torch.logspace(-9, 4, 500), -torch.logspace(-9, 4, 500)])
    scales = short_scales(given)
    assert torch.equal(scales.half().float(), scales)
    assert torch.equal(scales.bfloat16().float(), scales)
    assert torch.equal(scales.sign(), given.sign())
    usual = given.abs() > 2.0**-17
    assert ((scales - given).abs() <= 2.0**-8 * given.abs())[usual].all()


def test_scales_of_a_row_are_multiples_of_its_step() -> None:
    how = BlockQuantization(4, rows=True)
    sizes = torch.linspace(0.2, 3.0, 5).repeat_interleave(32)
    rows = torch.randn(40, 160, generator=torch.Generator().manual_seed(0)) * sizes
    rows[7] = 0.0
    blocks = padded_blocks(rows, how)
    scales, points = best_scales(blocks, how)
    steps = row_steps(blocks, how)
    counts = scales / steps
    assert torch.equal(counts, counts.round())
    assert ((counts.abs() >= 1) & (counts.abs() <= MOST_STEPS)).all()
    rounded = on_grid(blocks, scales, points, how)
    integers = rounded / steps
    assert torch.equal(integers, integers.round())
    assert integers.abs().max() <= 127
    free = on_grid(blocks, *best_scales(blocks, BlockQuantization(4)), how)
    assert (rounded - blocks).square().sum() < 1.1 * (free - blocks).square().sum()
    # no worse among fewer multiples, and rounded again it is the same
    for count in range(1, MOST_STEPS + 1):
        other = on_grid(blocks, torch.copysign(steps, scales) * count, points, how)
        assert ((rounded - blocks).square().sum(-1) <= (other - blocks).square().sum(-1)).all()
    assert torch.equal(on_grid(rounded, *best_scales(rounded, how), how), rounded)
    # a row of multiples of a step keeps it
    counts, generator = torch.tensor([4.0, 9.0, 11.0, 5.0, 10.0])[:, None], torch.Generator().manual_seed(1)
    steps = short_scales(torch.rand(30, 1, 1, generator=generator) + 0.1)
    blocks = torch.randint(-8, 8, (30, 5, 32), generator=generator) * counts * steps
    assert torch.equal(on_grid(blocks, *best_scales(blocks, how), how), blocks)


TABLE = TableRows("lm_head.weight", 64, "24832442")


def test_rows_of_a_table_with_the_same_bits_are_a_part_of_it_and_each_has_its_place() -> None:
    """Parts lie one below the other, most bits first; a grid knows them and comes back from JSON."""
    assert [(part.name, part.bits) for part in TABLE.parts] == [
        (f"lm_head.weight.{bits}", bits) for bits in (8, 4, 3, 2)
    ]
    stored = torch.cat([part.rows for part in TABLE.parts])
    assert stored.tolist() == [2, 1, 5, 6, 3, 0, 4, 7]
    assert torch.equal(stored[TABLE.places.long()], torch.arange(8))
    how = BlockQuantization(4, average=3.5, splits_tables=True, tables=(TABLE,))
    assert BlockQuantization(**how.to_json()) == how
    assert [how.of(part.name).bits for part in how.parts(TABLE.name)] == [8, 4, 3, 2]
    assert how.of(TABLE.name).block_size == 64
    assert not how.parts("model.embed_tokens.weight")
    assert "tables" not in BlockQuantization(4).to_json()
    for bits in ("", "47", "4x", "1"):
        with pytest.raises(ValueError, match=r"lm_head\.weight.*digits from 2 to 6, or 8"):
            TableRows("lm_head.weight", 64, bits)


#: For columns, which make up for the errors of those before them.
HOWS = [BlockQuantization(4), BlockQuantization(4, symmetric=False), BlockQuantization(4, 64, positive=True)]
HOWS.append(BlockQuantization(4, rows=True))


def nearest(weight: torch.Tensor, how: BlockQuantization, power: torch.Tensor | None = None) -> torch.Tensor:
    blocks = padded_blocks(weight, how)
    importance = None if power is None else padded_blocks(power[None].float(), how)[0]
    scales, points = best_scales(blocks, how, importance)
    return on_grid(blocks, kept_scales(scales, how), points, how).flatten(1)[:, : weight.shape[1]]


def loss(weight: torch.Tensor, rounded: torch.Tensor, moment: torch.Tensor) -> float:
    change = (rounded - weight).double()
    return float((change @ moment * change).sum())


@pytest.mark.parametrize("how", HOWS, ids=str)
@pytest.mark.parametrize("channels", [40, 150])
def test_it_beats_the_nearest_levels(how: BlockQuantization, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("how", HOWS, ids=str)
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


def test_the_curve_is_that_of_iq4_nl() -> None:
    assert gguf.quants.IQ4_NL.kvalues == CURVE
