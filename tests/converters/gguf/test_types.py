"""Each tensor gets the type that llama.cpp's own quantisation gives it, and rows that do not fit get a smaller one."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from support.variations import micro_config

from converters.gguf import GgufFormat
from converters.gguf.encoding import decode, encode, worse_rows
from converters.gguf.file import FilePlan
from seap_export.model.families import ModelSpec, model_spec


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


K_QUANTS = {Kind.Q4_K: 15, Kind.Q5_K: 31, Kind.Q6_K: 63}


@pytest.mark.needs("llama.cpp")
@pytest.mark.parametrize("kind", K_QUANTS)
def test_what_llama_cpp_rounds_is_near_enough_and_a_row_a_fifth_larger_is_not(kind: Kind) -> None:
    chance, shape = np.random.default_rng(0), (64, 512)
    uneven = np.exp(2 * chance.standard_normal((64, 16))).repeat(32, 1)  # blocks of very different sizes
    for numbers in (
        chance.standard_normal(shape),
        chance.standard_t(2, shape),
        chance.standard_normal(shape) * uneven,
    ):
        rows = numbers.astype(np.float32)
        assert not worse_rows(decode(encode(rows, kind), kind), rows, kind).any()
        assert worse_rows(decode(encode(1.2 * rows, kind), kind), rows, kind).all()


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
