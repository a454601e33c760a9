"""Blocks keep the levels of a matrix that is on them and are near any other; each tensor gets llama.cpp's type."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from support.formats.written import complaints
from support.models import matrix_on_grid, put_on_grid
from support.product import read_header, round_columns
from support.variations import VARIATIONS, micro_config

import converters.gguf.blocks as module
from converters.gguf import GgufFormat
from converters.gguf.blocks import GRIDS, Q4_0, WAYS
from converters.gguf.encoding import decode, encode
from converters.gguf.file import FilePlan
from seap_export.model.families import ModelSpec, model_spec

KINDS = [pytest.param(kind, id=kind.name) for kind in GRIDS]


def random_rows(scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(1).standard_normal((64, 256)) * scale).astype(np.float32)


def errors(rows: np.ndarray, packed: np.ndarray, kind: Kind) -> np.ndarray:
    """The squared error of each block, read by the package gguf."""
    return np.square(gguf.quants.dequantize(packed, kind) - rows).reshape(-1, 32).sum(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-4, 0.02, 30.0])
def test_levels_are_kept(kind: Kind, scale: float) -> None:
    rows = matrix_on_grid(torch.from_numpy(random_rows(scale)), GRIDS[kind]).numpy()
    assert not errors(rows, encode(rows, kind), kind).any()
    larger = rows * 8  # as where a power of two was multiplied into it
    assert not errors(larger, encode(larger, kind), kind).any()


@pytest.mark.parametrize("kind", KINDS)
def test_no_block_is_further_off_than_in_llama_cpp(kind: Kind) -> None:
    rows, like = random_rows(), Kind.Q4_0 if kind == Kind.IQ4_NL else kind  # which the package gguf does not write
    ours, theirs = errors(rows, encode(rows, kind), kind), errors(rows, gguf.quants.quantize(rows, like), like)
    if kind == like:
        assert (ours <= 1.005 * theirs).all()  # scales that are as good are rounded to float16
    assert ours.sum() < 0.97 * theirs.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_zeros_and_of_numbers_that_float16_cannot_scale(kind: Kind) -> None:
    rows = random_rows()
    rows[0], rows[1, :32], rows[2] = 0.0, 0.0, rows[2] * 1e-9
    decoded = decode(encode(rows, kind), kind)
    assert np.abs(decoded[0]).max() < 2.0**-23  # zero is no level of IQ4_NL
    assert np.abs(decoded[1, :32]).max() < 2.0**-23
    assert np.abs(decoded[2]).max() < 2.0**-20
    assert np.isfinite(decoded).all()


def test_rows_are_rounded_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows()
    whole = encode(rows, Kind.Q5_0)
    monkeypatch.setattr(module, "_ELEMENTS", 3 * rows.shape[1])
    assert np.array_equal(encode(rows, Kind.Q5_0), whole)


@pytest.mark.parametrize("scale", [1e-7, 1e-5, 1e-4, 0.02])
def test_rows_of_8_bits_are_kept_however_small(scale: float) -> None:
    rows, moment = torch.from_numpy(random_rows(scale)), torch.eye(256, dtype=torch.float64)
    rows[3] = 0.0
    rounded = round_columns(rows, moment, Q4_0.rounded(WAYS[Kind.Q8_0])).numpy()
    assert not errors(rounded, encode(rounded, Kind.Q8_0), Kind.Q8_0).any()


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_keeps_the_levels_of_its_model(model: Callable[..., Path], tmp_path: Path, tied: bool) -> None:
    folder = model(**VARIATIONS["llama-biases"], tie_word_embeddings=tied)
    rounded, format, out = put_on_grid(folder, Q4_0), GgufFormat("q4_0"), tmp_path / "gguf"
    out.mkdir()
    format.write(folder, out, lambda layer: None)
    spec = model_spec(micro_config(**VARIATIONS["llama-biases"], tie_word_embeddings=tied))
    assert format.grid(spec) == Q4_0
    assert len(rounded) >= 12
    read = format.weights(out, spec).read(rounded)
    for name, tensor in rounded.items():
        assert torch.equal(read[name], tensor), name
    assert complaints(format, folder, out) == []
    file = out / "model.gguf"
    with file.open("r+b") as stream:
        stream.seek(read_header(file)[1]["blk.1.ffn_up.weight"].offset + 5 * 18 + 7)  # two levels of the sixth block
        (pair,) = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([pair ^ 1]))
    (line,) = complaints(format, folder, out)
    assert "mlp.up_proj.weight' differs from the model's in 1 rows" in line


def test_a_model_whose_multipliers_go_into_the_weights_takes_the_nearest_levels() -> None:
    granite = model_spec(micro_config(**VARIATIONS["granite-all"]))
    assert GgufFormat("q4_0").grid(granite) is None
    assert GgufFormat("q8_0").grid(model_spec(micro_config(**VARIATIONS["llama-biases"]))) is None


def _spec(**values: object) -> ModelSpec:
    wide = {"model_type": "llama", "num_hidden_layers": 16, "hidden_size": 256, "intermediate_size": 512}
    return model_spec(
        micro_config(**{**wide, "head_dim": 64, "num_attention_heads": 4, "num_key_value_heads": 2, **values})
    )


def _kinds(precision: str, **values: object) -> dict[str, str]:
    plan = FilePlan.of(_spec(**values), precision)
    return {tensor.name: plan.kind(tensor).name for tensor in plan.tensors}


@pytest.mark.parametrize(
    ("precision", "usual", "better", "head"),
    [
        ("f32", "F32", "F32", "F32"),
        ("f16", "F16", "F16", "F16"),
        ("q8_0", "Q8_0", "Q8_0", "Q8_0"),
        ("q4_0", "Q4_0", "Q4_0", "Q6_K"),
        ("q4_k_m", "Q4_K", "Q6_K", "Q6_K"),
        ("q5_k_m", "Q5_K", "Q6_K", "Q6_K"),
        ("q6_k", "Q6_K", "Q6_K", "Q6_K"),
    ],
)
def test_presets_are_those_of_llama_cpp(precision: str, usual: str, better: str, head: str) -> None:
    kinds = _kinds(precision, attention_bias=True)
    assert {kinds["blk.0.attn_norm.weight"], kinds["blk.0.attn_q.bias"], kinds["output_norm.weight"]} == {"F32"}
    assert kinds["token_embd.weight"] == kinds["blk.3.attn_q.weight"] == kinds["blk.3.ffn_up.weight"] == usual
    assert kinds["output.weight"] == head
    # the first and last eighth of 16 layers, and every third of the others
    expected = {0, 1, 4, 7, 10, 13, 14, 15} if better != usual else set(range(16))
    for stem in ("attn_v", "ffn_down"):
        assert {layer for layer in range(16) if kinds[f"blk.{layer}.{stem}.weight"] == better} == expected
    assert _kinds(precision, tie_word_embeddings=True)["token_embd.weight"] == head


@pytest.mark.parametrize(
    ("precision", "width", "kind"),
    [
        ("q4_k_m", 288, "Q5_0"),
        ("q5_k_m", 288, "Q5_1"),
        ("q6_k", 288, "Q8_0"),
        ("q8_0", 200, "F16"),
        ("q4_0", 288, "Q4_0"),
    ],
)
def test_rows_that_are_not_whole_blocks(precision: str, width: int, kind: str) -> None:
    kinds = _kinds(precision, intermediate_size=width)
    assert kinds["blk.3.ffn_down.weight"] == kind
    remark = GgufFormat(precision).remark(_spec(intermediate_size=width))
    assert (remark is None) == (kind == "Q4_0")
    if remark is not None:
        assert kind in remark
        assert f"align = {32 if precision in ('q8_0', 'q4_0') else 256} in a recipe" in remark


@pytest.mark.needs("llama.cpp")
@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q5_1])
def test_bytes_are_those_of_llama_cpp(kind: Kind) -> None:
    from seap_export.common.llama_library import llama_library

    rows = np.random.default_rng(1).standard_normal((32, 256)).astype(np.float32)
    ours = encode(rows, kind)
    theirs = np.zeros_like(ours)
    pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (rows, theirs))
    llama_library().ggml_quantize_chunk(int(kind), *pointers, 0, 32, 256, None)
    assert np.array_equal(ours, theirs)
