"""What is written, and what is left when that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.chosen import FOR_MLX, in_turn
from support.editing import edit_weights
from support.models import rounded_copy, write_micro_model
from support.plans import write_pruned_micro_model
from support.product import read_spec
from support.variations import VARIATIONS

from converters.mlx import MlxFormat
from converters.mlx.quantize import GRID
from seap_export.common.json_file import read_json
from seap_export.errors import InputError
from seap_export.model.families import ModelSpec


def spec_of(folder: Path) -> ModelSpec:
    return read_spec(folder)


@pytest.mark.parametrize(("variation", "precision"), in_turn(FOR_MLX, MlxFormat.precisions))
def test_weights_are_read_back_as_the_model_s(tmp_path: Path, variation: str, precision: str) -> None:
    model, folder = write_pruned_micro_model(tmp_path / "hf", variation), tmp_path / "mlx"
    form, layers = MlxFormat(precision), list[int]()
    folder.mkdir()
    form.write(model, folder, layers.append)
    assert layers == [0, 1, 2]
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "modeling_mlx.py", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert MlxFormat.read(folder) == form
    assert list(form.differences(model, folder)) == []
    assert list(form.damages(model, folder)) == []
    assert (folder / "model.safetensors").stat().st_size == form.size(spec_of(model))
    stored = load_file(model / "model.safetensors")
    read = form.weights(folder, spec_of(model)).read(stored)
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
    (tmp_path / "mlx").mkdir()
    MlxFormat(precision).write(model, tmp_path / "mlx", lambda layer: None)
    stored = load_file(tmp_path / "mlx" / "model.safetensors")
    assert stored["model.norm.weight"].dtype == stored["model.embed_tokens.scales"].dtype == getattr(torch, dtype)
    assert read_json(tmp_path / "mlx" / "config.json")["dtype"] == dtype


def test_what_no_group_divides_is_left_as_it_is_and_named(tmp_path: Path) -> None:
    """Rows of 96 take groups of 32; those of 80 and 27 neurons, and of 3 heads of 16, none."""
    model, folder = write_pruned_micro_model(tmp_path / "hf", "qwen3-biases"), tmp_path / "mlx"
    folder.mkdir()
    MlxFormat("4bit").write(model, folder, lambda layer: None)
    said = read_json(folder / "config.json")["quantization"]
    assert (said["group_size"], said["bits"], said["mode"]) == (64, 4, "affine")
    assert said["model.layers.1.mlp.down_proj"] is False
    assert said["model.layers.1.mlp.up_proj"] == {"group_size": 32, "bits": 4, "mode": "affine"}
    assert said["model.layers.2.self_attn.o_proj"] is False
    remark = MlxFormat("4bit").remark(spec_of(model))
    assert remark is not None
    assert "4 matrices" in remark
    assert "model.layers.1.mlp.down_proj.weight" in remark
    assert "and 1 more" in remark
    assert "align = 32 in a recipe" in remark
    assert MlxFormat("fp16").remark(spec_of(model)) is None
    exact, stored = (
        load_file(model / "model.safetensors")["model.norm.weight"],
        load_file(folder / "model.safetensors"),
    )
    nearest = exact.half()
    lower = (nearest.view(torch.int16) - 1).view(torch.float16)
    stored["model.norm.weight"] = torch.where(nearest.float().abs() > exact.abs(), lower, nearest)
    assert not torch.equal(stored["model.norm.weight"], nearest)
    save_file(stored, folder / "model.safetensors", metadata={"format": "mlx"})
    assert list(MlxFormat("4bit").differences(model, folder)) == []  # as on a machine that rounds towards 0


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
    model = write_micro_model(tmp_path / "hf", **values)
    (tmp_path / "mlx").mkdir()
    with pytest.raises(InputError, match=reason):
        MlxFormat("fp16").write(model, tmp_path / "mlx", lambda layer: None)


@pytest.mark.parametrize(("dtype", "stored"), [("bfloat16", "bfloat16"), ("float32", "float16")])
def test_a_rounded_model_keeps_its_levels_in_the_dtype_of_the_one_that_was_rounded(
    tmp_path: Path, dtype: str, stored: str
) -> None:
    values = {"hidden_size": 192, "head_dim": 32, "intermediate_size": 96}  # down_proj has groups of 32
    model = write_micro_model(tmp_path / "hf", model_type="llama", dtype=dtype, **values)
    note = rounded_copy(model, tmp_path / "rounded", GRID)
    format, out = MlxFormat("4bit"), tmp_path / "mlx"
    out.mkdir()
    format.write(tmp_path / "rounded", out, lambda layer: None)
    assert read_json(out / "config.json")["dtype"] == stored
    assert not any("down_proj" in name for name in note.rounded)
    wanted = load_file(tmp_path / "rounded" / "model.safetensors")
    read = format.weights(out, spec_of(model)).read(note.rounded)
    assert all(torch.equal(read[name], wanted[name]) for name in note.rounded)
    assert not list(format.differences(tmp_path / "rounded", out))
    assert not list(format.damages(model, out))
    changed = load_file(out / "model.safetensors")
    words = changed["model.layers.1.mlp.up_proj.weight"].view(torch.int32)
    words[5, 3] ^= 1  # a single level
    changed["model.layers.1.mlp.up_proj.weight"] = words.view(torch.uint32)
    save_file(changed, out / "model.safetensors", {"format": "mlx"})
    assert len(list(format.differences(tmp_path / "rounded", out))) == 1


def test_a_model_that_overflows_in_float16_is_refused(tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "hf", model_type="llama")
    edit_weights(model, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"].mul_(3e4))
    for name, is_narrow in (("fp16", True), ("4bit", True), ("bf16", False)):
        folder = tmp_path / name
        folder.mkdir()
        if is_narrow:
            with pytest.raises(InputError, match=r"fp16 cannot hold this model.*use mlx:bf16"):
                MlxFormat(name).write(model, folder, lambda layer: None)
            assert list(folder.iterdir()) == []
        else:
            MlxFormat(name).write(model, folder, lambda layer: None)
