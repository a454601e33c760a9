"""Scales of blocks, matrices that are on a grid already, and which grid a matrix gets."""

from __future__ import annotations

import itertools

import pytest
import torch
from support.product import BlockQuantization, TableRows

from seap_export.pruning.rounding.scales import (
    MOST_STEPS,
    best_scales,
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


def test_only_products_of_layers_have_rows_of_one_step() -> None:
    for bits, expected in ((8, BlockQuantization(8, 0)), (4, BlockQuantization(4, rows=True))):
        how = BlockQuantization(bits, rows=True)
        assert how.of("model.layers.1.mlp.up_proj.weight") == expected
        assert how.of("model.embed_tokens.weight") == BlockQuantization(bits)
    with pytest.raises(ValueError, match="4 or 8 bits, and no zero points"):
        BlockQuantization(6, rows=True)


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


def test_names_tell_grids_apart() -> None:
    both = (True, False)
    grids = [
        BlockQuantization(*values) for values in itertools.product((4, 8), (32, 64), *[both] * 2, *[both[::-1]] * 2)
    ]
    assert len({grid.name for grid in grids}) == len(grids)
    assert grids[0].name == "int4-32"
    whole = BlockQuantization(4, whole_blocks=True)
    assert (BlockQuantization(4).takes(80), whole.takes(80), whole.takes(96)) == (True, False, True)
