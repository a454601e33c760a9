"""In every precision the graph computes what torch computes with the same weights, and stores each weight once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.execution import empty_state
from support.product import OnnxForm, OnnxFormat, TableRows, read_spec
from support.uneven import GRAPH_MODELS

from converters.onnx.graph.blocks import in_float_activations
from converters.onnx.precision import PRECISIONS, BlockQuantization, Precision, choose_precision
from converters.onnx.read_back import GraphWeights
from converters.onnx.weights.quantize import dequantize, quantize
from seap_export.errors import InputError, UsageError
from seap_export.pruning.rounding.table_rows import TablePart

MODELS = [*GRAPH_MODELS, ("qwen3", {})]
VOCABULARY = 128
IDS = np.random.default_rng(1).integers(3, VOCABULARY, (2, 17))
QUANTIZATIONS = [
    BlockQuantization(bits, size, symmetric, embeddings)
    for bits, (size, symmetric, embeddings) in itertools.product(
        (8, 4), ((32, True, True), (64, False, True), (128, False, False))
    )
]
#: Every number of bits, in matrices of one model.
MIXED = BlockQuantization(
    4,
    average=4.5,
    others=(
        ("model.embed_tokens.weight", 6, 64),
        ("lm_head.weight", 5, 32),
        *((f"model.layers.0.self_attn.{name}_proj.weight", 3, 64) for name in "qkv"),
        ("model.layers.0.self_attn.o_proj.weight", 2, 32),
        ("model.layers.0.mlp.gate_proj.weight", 3, 32),
        ("model.layers.0.mlp.up_proj.weight", 3, 32),
        ("model.layers.0.mlp.down_proj.weight", 8, 64),
        *((f"model.layers.1.self_attn.{name}_proj.weight", 5, 64) for name in "qkv"),
        ("model.layers.1.mlp.down_proj.weight", 6, 32),
        ("model.layers.2.mlp.down_proj.weight", 2, 64),
    ),
)


def run(session: onnxruntime.InferenceSession) -> np.ndarray:
    feeds = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
    feeds |= {item.name: empty_state(item, rows=len(IDS)) for item in session.get_inputs()[2:]}
    return session.run(["logits"], feeds)[0]


def run_exactly(folder: Path) -> np.ndarray:
    """The logits without rounding of activations to int8: all that is left is the weights' rounding."""
    (folder / "exact.onnx").write_bytes(in_float_activations(folder / "model.onnx"))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return run(onnxruntime.InferenceSession(folder / "exact.onnx", options, providers=["CPUExecutionProvider"]))


def round_weights(model: torch.nn.Module, how: BlockQuantization) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and (how.embeddings or "proj" in name):
                for part in how.parts(name) or (TablePart(name, how.of(name).bits, torch.arange(len(weight))),):
                    grid = how.of(part.name)
                    weight[part.rows] = dequantize(quantize(weight[part.rows], grid), grid, weight.shape[1])


#: More bits for the tokens that are used, so that the last row of one kernel and the first of the other are read.
USED = "".join("8" if token in IDS else "4" for token in range(VOCABULARY))


def split(name: str, bits: str) -> TableRows:
    """A table whose rows have these bits in turn."""
    return TableRows(name, 64, (bits * VOCABULARY)[:VOCABULARY])


@pytest.mark.parametrize(
    ("tables", "tied"),
    [((), False), (("285346", "42"), False), (("2", "8"), True), (("32", "685"), False), ((USED, USED), True)],
    ids=["none", "many-few", "tied", "few-some", "used"],
)
def test_every_matrix_may_have_bits_of_its_own(
    tables: tuple[str, ...], tied: bool, written: Callable[..., Any]
) -> None:
    of_tables = ("model.embed_tokens.weight", "lm_head.weight")[: 1 if tied else 2]
    how = replace(MIXED, tables=tuple(split(name, bits) for name, bits in zip(of_tables, tables, strict=False)))
    made = written("llama", precision=Precision("fp32", how), tie_word_embeddings=tied)
    onnx.checker.check_model(made.folder / "model.onnx")
    round_weights(made.model, how)
    expected = made.truth(IDS)
    assert np.abs(run_exactly(made.folder) - expected).max() < 2e-4
    stored = GraphWeights(made.folder / "model.onnx", read_spec(made.source))
    for name in of_tables if tables else ():
        assert torch.equal(stored.read([name])[name], made.model.state_dict()[name]), name
    for name, bits, *_ in [other for other in how.others if not (tables and other[0] in of_tables)]:
        if not (tied and name.startswith("lm_head")):
            weight = stored.read([name])[name]
            assert torch.equal(weight, made.model.state_dict()[name]), name
            assert all(len(row.unique()) <= 2**bits * (row.numel() // 32 + 1) for row in weight)


@pytest.mark.parametrize(
    ("family", "extra", "how"), [(*MODELS[index % len(MODELS)], how) for index, how in enumerate(QUANTIZATIONS)]
)
def test_quantised_weights_are_the_rounded_ones(
    family: str, extra: dict[str, Any], how: BlockQuantization, written: Callable[..., Any]
) -> None:
    made = written(family, precision=Precision("fp32", how), **extra)
    onnx.checker.check_model(made.folder / "model.onnx")
    before = made.truth(IDS)
    round_weights(made.model, how)
    expected = made.truth(IDS)
    assert np.abs(before - expected).max() > 1e-3
    assert np.abs(run_exactly(made.folder) - expected).max() < 2e-4
    noise = run(made.session) - expected
    assert 0 < np.sqrt((noise**2).mean()) < 0.12 * np.sqrt((expected**2).mean())


def test_the_table_of_the_cpu_is_what_a_session_accepts(written: Callable[..., Any]) -> None:
    for name in PRECISIONS:
        try:
            precision, accepted = choose_precision(name, "cpu"), True
        except UsageError:
            precision, accepted = choose_precision(name, "cuda"), False
        made = written("qwen2", precision=precision, folder=name)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            onnxruntime.InferenceSession(made.folder / "model.onnx", options, providers=["CPUExecutionProvider"])
            opened = True
        except Exception:
            opened = False
        assert opened == accepted, name


@pytest.mark.parametrize(
    ("name", "provider", "dialect", "words"),
    [
        ("bf16", "cpu", "fused", "cpu provider cannot run bf16; use fp32, fp16, int8, int4, w8a8 or w4a8"),
        ("w8a8", "cuda", "fused", "cuda provider cannot run w8a8; use int8, or the provider cpu"),
        ("bf16", "cpu", "standard", "cpu provider cannot run bf16; use fp32 or fp16"),
        ("fp32", "webgpu", "standard", r"webgpu provider has no attention of the dialect standard; .* fused.*"),
        ("fp32", "cuda", "fused", "cuda .*fp32; use fp16, bf16, int8 or int4, or the dialect standard"),
    ],
)
def test_what_a_provider_cannot_run_is_refused_with_what_it_can(
    name: Any, provider: Any, dialect: Any, words: str
) -> None:
    with pytest.raises(UsageError, match=f"{words}$"):
        choose_precision(name, provider, dialect)


def test_quantised_weights_take_the_first_dtype_of_the_provider_or_the_one_asked_for() -> None:
    assert choose_precision("int4", "cuda").dtype == "fp16"
    assert choose_precision("int4", "cpu").dtype == choose_precision("int4", "webgpu").dtype == "fp32"
    assert choose_precision("fp32", "cuda", "standard") == Precision("fp32")
    assert choose_precision("int8", "cuda", activations="bf16") == Precision("bf16", BlockQuantization(8))
    for activations, provider, others in (("fp32", "cuda", "fp16 or bf16"), ("bf16", "cpu", "fp32 or fp16")):
        with pytest.raises(UsageError, match=f"{provider} .*int4 with {activations} activations; use {others}$"):
            choose_precision("int4", provider, activations=activations)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dialect", "size", "words"),
    [("fused", 128, r"rows of 64.*; use block size 32 or 64"), ("standard", 32, r"standard dialect.*; use the fused")],
)
def test_blocks_that_cannot_be_are_refused(dialect: str, size: int, words: str, written: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match=words):
        written("llama", precision=Precision("fp32", BlockQuantization(4, size)), dialect=dialect)


@pytest.mark.parametrize(("bits", "tied"), [(8, False), (4, True)])
def test_an_embedding_that_no_blocks_fit_stays_as_it_is(bits: int, tied: bool, written: Callable[..., Any]) -> None:
    how = BlockQuantization(bits)
    made = written("llama", precision=Precision("fp32", how), hidden_size=72, head_dim=16, tie_word_embeddings=tied)
    round_weights(made.model, BlockQuantization(bits, embeddings=False))
    assert np.abs(run_exactly(made.folder) - made.truth(IDS)).max() < 2e-4
    remark = OnnxFormat.of(OnnxForm(Precision("fp32", how))).remark(read_spec(made.source))
    assert f"int{bits}: the embedding and the LM head stay in fp32, because their rows of 72" in str(remark)


def test_weights_beyond_fp16_are_named(written: Callable[..., Any]) -> None:
    def spoil(model: torch.nn.Module) -> None:
        model.get_parameter("lm_head.weight").data[0, 0] = 1e5
        model.get_parameter("model.norm.weight").data[0] = 0  # or else a logit is what overflows

    with pytest.raises(InputError, match=r"'lm_head\.weight' reaches 1e\+05.* fp16; use fp32"):
        written("llama", precision=Precision("fp16"), change=spoil)
