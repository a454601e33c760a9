"""The written graph computes what torch computes for every shape of layer; families and features have other tests."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from support.editing import edit_weights, set_json
from support.variations import VARIATIONS, micro_config

from converters.onnx import write_onnx
from converters.onnx.form import OnnxForm
from converters.onnx.graph.dialects import MASK_GUARD
from converters.onnx.onnx_writer import refuse_unsupported
from converters.onnx.precision import choose_precision
from seap_export.errors import InputError
from seap_export.model.families import model_spec

TOLERANCE = 1e-4
MIXED_BIASES: dict[str, Any] = {"attention_bias": True, "mlp_bias": True}
#: Heads, KV heads and neurons differ in every layer; compensation gave some projections a bias.
PRUNED: dict[str, Any] = {
    "per_layer_config": {
        0: {"num_attention_heads": 3, "num_key_value_heads": 3, "intermediate_size": 41, "o_proj_bias": True},
        1: {"num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 1, "down_proj_bias": True},
        2: {"intermediate_size": 70, "o_proj_bias": True, "down_proj_bias": True},
    }
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-mha": ("llama", {"num_key_value_heads": 4}),
    "llama-pruned-biases": ("llama", {**PRUNED, **MIXED_BIASES, "tie_word_embeddings": True}),
    "mistral-pruned": ("mistral", {**PRUNED, "sliding_window": 5}),
    "qwen2-pruned": ("qwen2", PRUNED),
    "qwen3-pruned": ("qwen3", {**PRUNED, "tie_word_embeddings": True}),
}


def tokens(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(3, 128, shape)


@pytest.mark.parametrize("dialect", ["fused", "standard"])
@pytest.mark.parametrize("case", CASES)
def test_equals_torch(case: str, dialect: str, written: Callable[..., Any]) -> None:
    """In the standard dialect ONNX's own evaluator does, too, and padding may stand on the left."""
    family, extra = CASES[case]
    made = written(family, dialect=dialect, **extra)
    onnx.checker.check_model(made.folder / "model.onnx", full_check=True)
    ids = tokens(1, 17)
    with torch.no_grad():
        output = made.model(torch.from_numpy(ids), use_cache=True)
    expected = output.logits.numpy()
    logits, presents = made.run(ids, np.ones_like(ids))
    assert np.abs(expected).max() > 0.5
    assert np.abs(logits - expected).max() <= TOLERANCE
    for index, layer in enumerate(output.past_key_values.layers):
        keys, values = layer.keys.numpy(), layer.values.numpy()  # a sliding layer keeps only its window
        assert np.abs(presents[2 * index][:, :, -keys.shape[2] :] - keys).max() <= TOLERANCE
        assert np.abs(presents[2 * index + 1][:, :, -values.shape[2] :] - values).max() <= TOLERANCE
    longer, mask = np.concatenate([ids, tokens(1, 1)], axis=1), np.ones((1, 18), np.int64)
    logits, _ = made.run(longer[:, -1:], mask, presents)
    assert np.abs(logits[:, -1] - made.truth(longer)[:, -1]).max() <= TOLERANCE
    if dialect == "standard":
        assert_padding_may_stand_on_the_left(made)
        model = onnx.load(made.folder / "model.onnx")
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 23)]
        evaluator = ReferenceEvaluator(model)
        logits, past = made.run(ids, np.ones_like(ids), session=evaluator)
        assert np.abs(logits - expected).max() <= TOLERANCE
        logits, _ = made.run(longer[:, -1:], mask, past, session=evaluator)
        assert np.abs(logits[:, -1] - made.truth(longer)[:, -1]).max() <= TOLERANCE


def assert_padding_may_stand_on_the_left(made: Any) -> None:
    ids, lengths = tokens(3, 13), (13, 4, 9)
    mask = (np.arange(13)[None] >= 13 - np.array(lengths)[:, None]).astype(np.int64)
    rows = [ids[row : row + 1, 13 - length :] for row, length in enumerate(lengths)]
    logits, past = made.run(ids, mask)
    for step in range(3):
        for row, history in enumerate(rows):
            assert np.abs(logits[row, -1] - made.truth(history)[0, -1]).max() <= TOLERANCE
        new = ids[:, step : step + 1]
        rows = [np.concatenate([row, token[None]], axis=1) for row, token in zip(rows, new, strict=True)]
        mask = np.concatenate([mask, np.ones((3, 1), np.int64)], axis=1)
        logits, past = made.run(new, mask, past)


@pytest.mark.parametrize(
    ("name", "dialect", "side"),
    [
        ("fp32", "fused", "right"),
        ("int4", "fused", "right"),
        ("fp32", "standard", "right"),
        ("fp32", "standard", "left"),
    ],
)
def test_logits_of_the_last_token_alone(name: Any, dialect: str, side: str, written: Callable[..., Any]) -> None:
    precision, ids, lengths = choose_precision(name), tokens(2, 17), np.array([17, 9])
    whole, made = (
        written("llama", precision=precision, dialect=dialect, logits=logits, folder=logits)
        for logits in ("all", "last")
    )
    is_real = np.arange(17) < lengths[:, None] if side == "right" else np.arange(17) >= 17 - lengths[:, None]
    expected, past = whole.run(ids, mask := is_real.astype(np.int64))
    logits, _ = made.run(ids, mask)
    assert logits.shape == (2, 1, 128)
    assert np.abs(logits[:, 0] - expected[[0, 1], lengths - 1 if side == "right" else 16]).max() < 1e-5
    for step in range(3):
        mask = np.concatenate([mask, np.ones((2, 1), np.int64)], axis=1)
        logits, _ = made.run(ids[:, step : step + 1], mask, past)
        expected, past = whole.run(ids[:, step : step + 1], mask, past)
        assert np.abs(logits - expected).max() < 1e-5
    row, mask = ids[:1], np.ones((1, 17), np.int64)  # attention takes one row where several tokens follow a cache
    _, past = whole.run(row[:, :7], mask[:, :7])
    expected, _ = whole.run(row[:, 7:], mask, past)
    logits, _ = made.run(row[:, 7:], mask, past)
    assert np.abs(logits[:, 0] - expected[:, -1]).max() < 1e-5


def test_every_mask_of_a_prompt_is_computed_rightly_or_fails_by_name(written: Callable[..., Any]) -> None:
    made, ids = written(), tokens(1, 5)
    for mask in itertools.product((0, 1), repeat=5):
        count = sum(mask)
        if count and mask == (1,) * count + (0,) * (5 - count):
            logits, _ = made.run(ids, np.array([mask]))
            assert np.abs(logits[:, :count] - made.truth(ids[:, :count])).max() <= TOLERANCE
        else:
            for both in ([mask], [mask, (1,) * 5], [(1, 1, 0, 0, 0), mask]):
                with pytest.raises(Exception, match=MASK_GUARD):
                    made.run(np.repeat(ids, len(both), 0), np.array(both))


def test_a_step_with_a_hole_in_every_row_fails_by_name(written: Callable[..., Any]) -> None:
    """If one row has none, the others may have been padded in the prompt."""
    made, ids = written(), tokens(1, 5)
    _, past = made.run(ids, np.ones((1, 5), np.int64))
    for mask in ([1, 1, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 1]):
        with pytest.raises(Exception, match=MASK_GUARD):
            made.run(ids[:, :1], np.array([mask]), past)
    logits, _ = made.run(ids[:, :1], np.ones((1, 6), np.int64), past)
    assert np.abs(logits[0, 0] - made.truth(np.append(ids, ids[:, :1], 1))[0, -1]).max() <= TOLERANCE


@pytest.mark.parametrize("tied", [True, False])
def test_everything_is_stored_once(tied: bool, written: Callable[..., Any]) -> None:
    made = written("llama", tie_word_embeddings=tied)
    graph = onnx.load(made.folder / "model.onnx", load_external_data=False).graph
    external = [t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    stored = sum(4 * math.prod(t.dims) for t in external)
    parameters = sum(p.numel() for p in made.model.parameters())  # a tied weight is listed once
    rotary = 2 * 96 * 8
    assert stored == 4 * (parameters + rotary)
    assert (made.folder / "model.onnx.data").stat().st_size == stored
    tables = [list(t.dims) for t in external if "embed_tokens" in t.name or "lm_head" in t.name]
    assert tables == ([[128, 64]] if tied else [[128, 64], [64, 128]])
    assert sorted(file.name for file in made.folder.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert not any(node.op_type == "Transpose" for node in graph.node)


def _spoiled(tensor: str, value: float) -> Callable[[Path], object]:
    return lambda folder: edit_weights(folder, lambda tensors: tensors[tensor].view(-1)[-1].fill_(value))


def _config(**values: Any) -> Callable[[Path], object]:
    return lambda folder: set_json(folder / "config.json", **values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # layer 1 has one neuron: its bias is stored in the graph
        (
            _spoiled("model.layers.1.mlp.up_proj.bias", math.nan),
            "up_proj.bias' holds NaN or infinite values",
        ),
        (_spoiled("model.norm.weight", math.inf), "'model.norm.weight' holds NaN or infinite values"),
        (_config(vocab_size=100), "config and weights disagree"),
        (_config(head_dim=20), "multiple of 8"),
        (_config(rope_scaling={"rope_type": "mrope", "factor": 2.0}, rope_parameters=None), "is not supported"),
        (_config(model_type="xglm"), "is not supported"),
    ],
    ids=["NaN", "infinite", "shapes", "heads", "rope", "family"],
)
def test_what_is_damaged_or_unknown_is_refused(
    change: Callable[[Path], object], message: str, written: Callable[..., Any], tmp_path: Path
) -> None:
    """In one line, and nothing is left behind."""
    made, folder = written("llama", **PRUNED, **MIXED_BIASES), tmp_path / "refused"
    folder.mkdir()
    change(made.source)
    with pytest.raises(InputError) as caught:
        write_onnx(made.source, folder)
    assert list(folder.iterdir()) == []
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


_ONLY = "on GPUs in the fused dialect only, in fp32, fp16 or bf16; use these, or the"
_CUDA = {"provider": "cuda"}


@pytest.mark.parametrize(
    ("variation", "precision", "form", "words"),
    [
        ("gemma2-attention-softcap", "fp32", {"provider": "webgpu"}, "soft cap.* use the provider cpu"),
        ("gemma4-experts", "fp32", {"provider": "webgpu"}, "experts.* use the provider cpu"),
        ("mixtral", "int8", _CUDA, _ONLY),
        ("mixtral", "int4", _CUDA, _ONLY),
        ("mixtral", "fp16", {"dialect": "standard", **_CUDA}, _ONLY),
        ("gemma4-experts", "fp16", _CUDA, "the activation gelu_tanh are not supported on GPUs"),
    ],
)
def test_what_gpus_compute_wrongly_or_never_ran_is_refused(
    variation: str, precision: Any, form: Any, words: str
) -> None:
    """By name, before anything is written; the CPU computes it."""
    spec = model_spec(micro_config(**VARIATIONS[variation]))
    refuse_unsupported(spec, OnnxForm(choose_precision(precision), form.get("dialect", "fused")))
    with pytest.raises(InputError, match=words):
        refuse_unsupported(spec, OnnxForm(choose_precision(precision, form["provider"]), **form))
