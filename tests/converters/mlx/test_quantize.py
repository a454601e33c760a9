"""Quantised weights have the bits that MLX itself gives them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.models import matrix_on_grid
from support.product import BlockQuantization

from converters.mlx import quantize as module
from converters.mlx.layout import WAYS
from converters.mlx.quantize import GRID, dequantize, kept, quantize


def matrix(scale: float, shift: float, dtype: torch.dtype) -> torch.Tensor:
    """Random numbers, and rows of zeros, of one number, of none below zero, and of numbers hardly apart."""
    made = scale * (torch.randn(64, 256, generator=torch.Generator().manual_seed(0)) + shift)
    made[3], made[4], made[5] = 0.0, scale, -scale
    made[6], made[7, ::2] = made[6].abs(), 0.0
    made[8] = scale * (1 + 1e-6 * made[8])
    return made.to(dtype)


@pytest.mark.needs("mlx-lm")
@pytest.mark.parametrize(
    ("dtype", "bits", "group", "scale", "shift"),
    [
        (dtype, bits, (32, 64)[(number + bits // 4) % 2], *size)
        for number, dtype in enumerate((torch.float32, torch.float16, torch.bfloat16))
        for bits in (4, 8)
        for size in ((1e-9, 0.0), (1e-4, 0.5), (0.02, 0.0), (1.0, -0.7), (30.0, 3.0))
    ],
    ids=str,
)
def test_bits_are_those_of_mlx(dtype: torch.dtype, bits: int, group: int, scale: float, shift: float) -> None:
    import mlx.core as mx

    given = matrix(scale, shift, dtype)
    same = mx.array(given.float().numpy()).astype(getattr(mx, str(dtype).removeprefix("torch.")))
    wanted = mx.quantize(same, group_size=group, bits=bits)
    quantized = quantize(given, bits, group)
    assert np.array_equal(np.array(wanted[0]), quantized.weight.numpy())
    for ours, part in zip((quantized.scales, quantized.biases), wanted[1:], strict=True):
        assert ours.dtype == dtype
        assert np.array_equal(np.array(part.astype(mx.float32)), ours.float().numpy())
    parts = [
        mx.array(quantized.weight.numpy()),
        *(mx.array(ours.float().numpy()) for ours in (quantized.scales, quantized.biases)),
    ]
    whole = np.array(mx.dequantize(*parts, group_size=group, bits=bits))
    np.testing.assert_allclose(dequantize(quantized, bits).numpy(), whole, rtol=1e-6, atol=1e-12)


def test_a_word_holds_the_first_number_in_its_lowest_bits() -> None:
    row = torch.cat([torch.arange(-15.0, 1.0), torch.zeros(16)]).unsqueeze(0)  # numbers 0 to 15, then 15
    quantized = quantize(row, 4, 32)
    words = [int(word) for word in quantized.weight[0].tolist()]
    assert words == [0x76543210, 0xFEDCBA98, 0xFFFFFFFF, 0xFFFFFFFF]
    assert (quantized.scales.item(), quantized.biases.item()) == (1.0, -15.0)
    assert torch.equal(dequantize(quantized, 4), row)


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_are_quantised_some_at_a_time(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = matrix(1.0, 0.1, torch.float32)
    whole = quantize(given, bits, 32)
    monkeypatch.setattr(module, "_ELEMENTS", 3 * given.shape[1])
    parts = quantize(given, bits, 32)
    for name in ("weight", "scales", "biases"):
        assert torch.equal(getattr(parts, name).view(torch.int32), getattr(whole, name).view(torch.int32))


@pytest.mark.parametrize(
    ("how", "dtype"),
    [(GRID, torch.float32), (GRID, torch.bfloat16), *((GRID.rounded(way), torch.float16) for way in WAYS)],
)
def test_a_matrix_on_the_grid_is_kept(
    how: BlockQuantization, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = matrix_on_grid(matrix(0.02, 0.1, torch.float32), how)
    levels = kept(given, dtype, how)
    assert levels is not None
    assert (levels.scales.dtype, levels.biases.dtype) == (dtype, dtype)
    assert torch.equal(dequantize(levels, how.bits), given)
    monkeypatch.setattr(module, "_FEWER", 3 * given.shape[1])
    again = kept(given, dtype, how)
    assert again is not None
    assert torch.equal(again.weight.view(torch.int32), levels.weight.view(torch.int32))


def test_a_matrix_with_one_number_off_the_grid_is_not_kept() -> None:
    given = matrix_on_grid(matrix(0.02, 0.1, torch.float32), GRID)
    given[60, 100] += 1e-3
    assert kept(given, torch.float32, GRID) is None
    assert kept(given[:60], torch.float32, GRID) is not None
