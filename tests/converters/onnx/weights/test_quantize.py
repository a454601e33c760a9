"""Blocks are rounded, packed and scaled as ONNX Runtime reads them."""

from __future__ import annotations

import itertools

import pytest
import torch
from support.product import BlockQuantization

from converters.onnx.weights.quantize import dequantize, quantize, scales_of

WAYS = [
    BlockQuantization(bits, size, symmetric)
    for bits, size, symmetric in itertools.product((4, 8), (32, 64, 128), (True, False))
]


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator) + 0.3


def unpacked(value: int, bits: int) -> list[int]:
    return [value] if bits == 8 else [value % 16, value // 16]


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_the_layout_is_that_of_matmul_nbits(how: BlockQuantization) -> None:
    weights = matrix(3, 150)
    made = quantize(weights, how)
    blocks = -(-150 // how.block_size)
    assert made.packed.shape == (3, blocks, how.block_size * how.bits // 8)
    assert made.scales.shape == (3, blocks)
    assert made.packed.dtype == torch.uint8

    weights_again = dequantize(made, how, 150)
    for row, block in itertools.product(range(3), range(blocks)):
        levels = list(itertools.chain(*(unpacked(byte, how.bits) for byte in made.packed[row, block].tolist())))
        zero = 1 << (how.bits - 1)
        if made.zero_points is not None:
            zero = list(itertools.chain(*(unpacked(b, how.bits) for b in made.zero_points[row].tolist())))[block]
        for index, level in enumerate(levels[: 150 - block * how.block_size]):
            value = (level - zero) * made.scales[row, block].item()
            assert weights_again[row, block * how.block_size + index].item() == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_weights_on_the_levels_and_zeros_come_back_exactly(how: BlockQuantization) -> None:
    low, high = -(1 << (how.bits - 1)), (1 << (how.bits - 1)) - 1
    generator = torch.Generator().manual_seed(1)
    levels = torch.randint(low, high + 1, (5, 2 * how.block_size), generator=generator).float()
    levels[:, :: how.block_size], levels[:, 1 :: how.block_size] = low, high
    weights = levels * 0.25
    weights[0] = 0.0
    assert torch.equal(dequantize(quantize(weights, how), how, weights.shape[1]), weights)
    single = torch.zeros(1, 64)
    single[0, 40] = 1.0
    again = dequantize(quantize(single, how), how, 64)
    assert again[0, 40].item() == pytest.approx(1.0, rel=2**-11)  # a scale has 11 digits


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_clipped_block_is_never_worse(symmetric: bool) -> None:
    how = BlockQuantization(4, 32, symmetric)
    weights = matrix(64, 512)
    made = quantize(weights, how)
    blocks = weights.view(64, -1, 32)
    if symmetric:
        scales = (blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)) / -8).half().float()
        levels = (blocks / scales).round().clamp(-8, 7)
        plain = levels * scales
    else:
        lowest, highest = blocks.amin(-1, keepdim=True).clamp(max=0), blocks.amax(-1, keepdim=True).clamp(min=0)
        scales = ((highest - lowest) / 15).half().float()
        zero = (-lowest / scales).round()
        plain = ((blocks / scales).round() + zero).clamp(0, 15).sub(zero) * scales
    ours = (dequantize(made, how, 512).view_as(blocks) - blocks).square().sum(-1)
    without_clipping = (plain - blocks).square().sum(-1)
    assert (ours <= without_clipping * 1.0001).all()
    assert ours.sum() < 0.95 * without_clipping.sum()


@pytest.mark.parametrize("symmetric", [True, False])
def test_rows_do_not_depend_on_how_many_are_done_at_once(symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    how, weights = BlockQuantization(4, 32, symmetric), matrix(50, 96)
    whole = quantize(weights, how)
    monkeypatch.setattr("converters.onnx.weights.quantize._ELEMENTS", 300)
    parts = quantize(weights, how)
    assert torch.equal(whole.packed, parts.packed)
    assert torch.equal(whole.scales, parts.scales)
    assert (whole.zero_points is None) is (parts.zero_points is None) is symmetric
    assert symmetric or torch.equal(whole.zero_points, parts.zero_points)


@pytest.mark.parametrize(("bits", "size"), [(7, 32), (4, 16), (8, 48)])
def test_unknown_forms_are_refused(bits: int, size: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        BlockQuantization(bits, size)


def test_scales_of_a_row_are_counts_of_its_step() -> None:
    how = BlockQuantization(4, rows=True)
    for factor in (1.0, 1e-2, 1e-5):  # the last has steps of few digits in float16
        made = quantize(matrix(200, 150) * factor, how)
        counts, rows = made.steps
        assert counts.dtype == torch.int8
        assert torch.equal(rows.half().float(), rows)
        assert torch.equal(scales_of(counts, rows), made.scales)
        assert counts.abs().max() <= 15


def test_scales_that_are_no_multiples_of_a_step_are_not_written() -> None:
    with pytest.raises(ValueError, match="no multiples of one step"):
        _ = quantize(matrix(4, 150), BlockQuantization(4)).steps
