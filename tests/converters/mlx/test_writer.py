"""What is written and refused, and quantised weights, which have the bits that MLX itself gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.chosen import FOR_MLX, in_turn
from support.editing import edit_weights
from support.formats.written import WrittenModel, complaints
from support.models import matrix_on_grid, rounded_copy, write_micro_model
from support.plans import write_pruned_micro_model
from support.product import BlockQuantization, read_spec
from support.variations import VARIATIONS

from converters.mlx import MlxFormat
from converters.mlx import quantize as module
from converters.mlx.layout import WAYS
from converters.mlx.quantize import GRID, dequantize, kept, quantize
from seap_export.common.json_file import read_json
from seap_export.errors import InputError


def written(model: Path, precision: str) -> Path:
    """The folder beside the model's."""
    return WrittenModel.of(MlxFormat(precision), model).folder


@pytest.mark.parametrize(("variation", "precision"), in_turn(FOR_MLX, MlxFormat.precisions))
def test_weights_are_read_back_as_the_model_s(tmp_path: Path, variation: str, precision: str) -> None:
    model = write_pruned_micro_model(tmp_path / "hf", variation)
    form, folder = MlxFormat(precision), written(model, precision)
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "modeling_mlx.py", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert MlxFormat.read(folder) == form
    assert complaints(form, model, folder) == []
    assert (folder / "model.safetensors").stat().st_size == form.size(read_spec(model))
    stored = load_file(model / "model.safetensors")
    read = form.weights(folder, read_spec(model)).read(stored)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in read.items()} == {
        name: (tensor.shape, torch.float32) for name, tensor in stored.items()
    }
    step = {"fp32": 1e-6, "fp16": 1e-3, "bf16": 8e-3, "8bit": 1e-2, "4bit": 0.15}[precision]
    for name, tensor in read.items():
        assert (tensor - stored[name]).abs().max() <= step * max(1.0, stored[name].abs().max()), name


@pytest.mark.parametrize(
    ("precision", "dtype", "kept"),
    [("8bit", "float16", "float32"), ("4bit", "bfloat16", "bfloat16"), ("4bit", "float16", "float16")],
)
def test_what_is_not_quantised_keeps_the_model_s_dtype_but_for_float32(
    tmp_path: Path, precision: str, dtype: str, kept: str
) -> None:
    model = write_micro_model(tmp_path / "hf", dtype=kept, **VARIATIONS["qwen2"])
    stored = load_file(written(model, precision) / "model.safetensors")
    assert stored["model.norm.weight"].dtype == stored["model.embed_tokens.scales"].dtype == getattr(torch, dtype)
    assert read_json(tmp_path / "mlx" / "config.json")["dtype"] == dtype


def test_what_no_group_divides_is_left_as_it_is_and_named(tmp_path: Path) -> None:
    """Rows of 96 take groups of 32; those of 80 and 27 neurons, and of 3 heads of 16, none."""
    model = write_pruned_micro_model(tmp_path / "hf", "qwen3-biases")
    folder = written(model, "4bit")
    said = read_json(folder / "config.json")["quantization"]
    assert (said["group_size"], said["bits"], said["mode"]) == (64, 4, "affine")
    assert said["model.layers.1.mlp.down_proj"] is False
    assert said["model.layers.1.mlp.up_proj"] == {"group_size": 32, "bits": 4, "mode": "affine"}
    assert said["model.layers.2.self_attn.o_proj"] is False
    remark = MlxFormat("4bit").remark(read_spec(model))
    assert remark is not None
    assert "4 matrices" in remark
    assert "model.layers.1.mlp.down_proj.weight" in remark
    assert "and 1 more" in remark
    assert "align = 32 in a recipe" in remark
    assert MlxFormat("fp16").remark(read_spec(model)) is None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model_type": "arcee"}, "no MLP without a gate"),
        ({"model_type": "llama", "hidden_act": "relu"}, "no relu gate"),
        (VARIATIONS["falcon_h1"], "no layer with Mamba-2; use another format"),
        (VARIATIONS["gemma4-experts"], "no layer with a norm of its router; use another format"),
    ],
)
def test_what_the_model_file_lacks_is_refused(tmp_path: Path, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        written(write_micro_model(tmp_path / "hf", **values), "fp16")


@pytest.mark.parametrize(("dtype", "stored"), [("bfloat16", "bfloat16"), ("float32", "float16")])
def test_a_rounded_model_keeps_its_levels_in_the_dtype_of_the_one_that_was_rounded(
    tmp_path: Path, dtype: str, stored: str
) -> None:
    values = {"hidden_size": 192, "head_dim": 32, "intermediate_size": 96}  # down_proj has groups of 32
    model = write_micro_model(tmp_path / "hf", model_type="llama", dtype=dtype, **values)
    note = rounded_copy(model, tmp_path / "rounded", GRID)
    format, out = MlxFormat("4bit"), written(tmp_path / "rounded", "4bit")
    assert read_json(out / "config.json")["dtype"] == stored
    assert not any("down_proj" in name for name in note.rounded)
    wanted = load_file(tmp_path / "rounded" / "model.safetensors")
    read = format.weights(out, read_spec(model)).read(note.rounded)
    assert all(torch.equal(read[name], wanted[name]) for name in note.rounded)
    assert complaints(format, tmp_path / "rounded", out) == []
    weights, name = format.weights(out, read_spec(model)), "model.layers.1.mlp.up_proj.weight"
    weights.read([name])
    levels, *_ = weights.places
    content = bytearray(levels.file.read_bytes())
    content[levels.start + 5 * 96 + 12] ^= 1  # a single level, of the sixth row
    levels.file.write_bytes(content)
    (line,) = complaints(format, tmp_path / "rounded", out)
    assert f"'{name}' differs from the model's in 1 rows, for example row 5" in line


def test_a_model_that_overflows_in_float16_is_refused(tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "hf", model_type="llama")
    edit_weights(model, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"].mul_(3e4))
    written(model, "bf16")
    for name in ("fp16", "4bit"):
        (tmp_path / name).mkdir()
        with pytest.raises(InputError, match=r"fp16 cannot hold this model.*use mlx:bf16"):
            MlxFormat(name).write(model, tmp_path / name, lambda layer: None)
        assert list((tmp_path / name).iterdir()) == []


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
