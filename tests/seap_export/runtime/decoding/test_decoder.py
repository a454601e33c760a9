"""Caches written in place give what copied ones give, for any batch, and never move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from transformers import AutoModelForCausalLM

from seap_export.common.providers import PROVIDERS
from seap_export.errors import ArtifactError, EnvironmentFailure
from seap_export.runtime.decoding.cache import AppendedCache, SharedCache
from seap_export.runtime.decoding.decoder import Cancelled, Decoding, OnnxDecoder
from seap_export.runtime.decoding.tensors import ELEMENTS, view

CONTEXT, STEPS = 128, 10
BATCHES = [[7], [1], [5, 5], [3, 9, 1, 6]]


def prompts_of(lengths: Sequence[int]) -> list[list[int]]:
    chance = np.random.default_rng(3)
    return [chance.integers(4, 90, length).tolist() for length in lengths]


def forced(rows: int) -> list[list[int]]:
    """The tokens that are appended, step by step."""
    return np.random.default_rng(4).integers(4, 90, (STEPS, rows)).tolist()


def decoded(decoder: OnnxDecoder, prompts: list[list[int]]) -> list[NDArray[np.float32]]:
    """The logits of the prompts and of each step."""
    decoding = decoder.start(prompts, STEPS)
    logits = [decoding.logits]
    for tokens in forced(len(prompts)):
        decoding.step(tokens)
        logits.append(decoding.logits.copy())
    return logits


def of_transformers(folder: Path, prompts: list[list[int]]) -> NDArray[np.float32]:
    """The same logits, [step, row, vocabulary], from all tokens of each row at once."""
    model, rows = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), []
    for row, prompt in enumerate(prompts):
        tokens = [*prompt, *(step[row] for step in forced(len(prompts)))]
        with torch.no_grad():
            rows.append(model(torch.tensor([tokens])).logits[0, len(prompt) - 1 :].numpy())
    return np.stack(rows, axis=1)


def addresses(decoding: Decoding) -> dict[str, int]:
    return {name: buffer.data_ptr() for name, buffer in decoding._cache.buffers.items()}


def contents(decoding: Decoding, element: str = "tensor(float)") -> dict[str, NDArray[Any]]:
    return {name: view(buffer, ELEMENTS[element]) for name, buffer in decoding._cache.buffers.items()}


def split_after(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets decoders that are opened from now on run no more tokens of a row in one call."""
    row = replace(PROVIDERS["cpu"], longest_call=tokens)
    monkeypatch.setattr("seap_export.runtime.decoding.decoder.PROVIDERS", {"cpu": row})


def lengths_of_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens of a row each call has from now on."""
    lengths: list[int] = []
    run = Decoding._run_tokens

    def counted(decoding: Decoding, input_ids: NDArray[np.int64], is_real: NDArray[np.int64]) -> NDArray[Any]:
        lengths.append(input_ids.shape[1])
        return run(decoding, input_ids, is_real)

    monkeypatch.setattr(Decoding, "_run_tokens", counted)
    return lengths


#: A model, options of its conversion, and what its graph says of its cache, unless the conversion says it.
FORMS: list[tuple[str, dict[str, str], str]] = [
    ("qwen3", {}, ""),
    ("mistral-window", {}, ""),
    ("mistral-window", {}, "appended"),
    ("mistral-window", {"dialect": "standard"}, ""),
    ("lfm2", {}, ""),
    ("falcon_h1", {}, ""),
    ("pruned", {}, ""),
    ("llama-gqa", {"logits": "last"}, ""),
    ("llama-gqa", {"dtype": "fp16"}, "shared"),
    ("llama-gqa", {"dtype": "fp16"}, "appended"),
    ("llama-gqa", {"dialect": "standard", "logits": "last"}, ""),
]


@pytest.mark.parametrize(
    ("name", "options", "cache", "lengths"),
    [(*form, lengths) for form in FORMS for lengths in BATCHES if form[2] != "appended" or len(set(lengths)) == 1],
)
def test_logits_are_those_of_transformers_in_one_call_or_split(
    dense: Callable[..., Path],
    marked: Callable[[Path, str], Path],
    pristine: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, str],
    cache: str,
    lengths: list[int],
) -> None:
    folder, is_pruned = pristine / "a-0.2" / "onnx" if name == "pruned" else dense(name, **options), name == "pruned"
    path, prompts = (marked(folder, cache) if cache else folder) / "model.onnx", prompts_of(lengths)
    expected = of_transformers(folder.parent / ("hf" if is_pruned else "m"), prompts)
    error = 0.02 * np.abs(expected).max() if "dtype" in options else 1e-4
    decoder = OnnxDecoder(path, CONTEXT, threads=1)
    np.testing.assert_allclose(decoded(decoder, prompts), expected, rtol=0, atol=error)
    decoding, is_appended = decoder.start(prompts, 1), cache == "appended" or "dialect" in options
    assert decoding.logits.dtype == np.float32
    assert isinstance(decoding._cache, AppendedCache if is_appended else SharedCache)
    split_after(3, monkeypatch)
    calls, split = lengths_of_calls(monkeypatch), OnnxDecoder(path, CONTEXT, threads=1)
    np.testing.assert_allclose(decoded(split, prompts), expected, rtol=0, atol=error)
    assert calls == {7: [3, 2, 2], 1: [1], 5: [5], 9: [9]}[max(lengths)]


def test_the_cache_is_written_in_place_and_never_moves(dense: Callable[..., Path]) -> None:
    decoder = OnnxDecoder(dense("llama-gqa") / "model.onnx", CONTEXT, threads=1)
    decoding = decoder.start(prompts_of([3, 9]), STEPS)
    before, empty = addresses(decoding), contents(decoding)
    assert all(cache.shape == (2, 3, 64, 16) for cache in empty.values())
    for tokens in forced(2):
        decoding.step(tokens)
        assert addresses(decoding) == before
        presents = decoding._binding.get_outputs()[1:]
        assert [value.data_ptr() for value in presents] == list(before.values())
    assert decoding.lengths.tolist() == [13, 19]
    for cache in contents(decoding).values():
        for row, length in enumerate(decoding.lengths):
            assert np.abs(cache[row, :, :length]).min(axis=(0, 2)).all()
        assert not cache[:, :, 19:].any()


@pytest.mark.parametrize("dialect", ["fused", "standard"])
def test_a_row_that_is_not_active_keeps_its_length(dense: Callable[..., Path], dialect: str) -> None:
    decoder = OnnxDecoder(dense("llama-gqa", dialect=dialect) / "model.onnx", CONTEXT, threads=1)
    prompts = prompts_of([9, 4])
    alone, together = decoder.start(prompts[1:], STEPS), decoder.start(prompts, STEPS)
    for step in forced(2):
        alone.step(step[1:])
        together.step(step, [False, True])
        np.testing.assert_allclose(together.logits[1:], alone.logits, rtol=0, atol=1e-4)
    assert together.lengths.tolist() == [9, 14]


def test_what_is_added_is_split_too_and_left_between_calls(
    dense: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    split_after(3, monkeypatch)
    split, (tokens,) = OnnxDecoder(dense("llama-gqa") / "model.onnx", CONTEXT, threads=1), prompts_of([9])
    decoding, other = split.start([tokens[:2]], STEPS), split.start([tokens[:1]], STEPS)
    calls = lengths_of_calls(monkeypatch)
    assert split.resume(decoding, 2, tokens[2:], STEPS)
    assert calls == [3, 2, 2]
    np.testing.assert_allclose(decoding.logits, split.start([tokens], STEPS).logits, rtol=0, atol=1e-5)
    calls.clear()
    with pytest.raises(Cancelled):
        split.start([tokens], STEPS, lambda: len(calls) == 2)
    with pytest.raises(Cancelled):
        split.resume(other, 1, tokens[1:], STEPS, lambda: len(calls) == 3)
    assert calls == [3, 3, 3]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("phi3-all", [6, 5, 5, 17]), ("qwen3_moe", [16, 17])],  # another table from 17 tokens on; experts
)
def test_tokens_that_have_to_run_together_are_in_one_call(
    dense: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str, expected: list[int]
) -> None:
    split_after(6, monkeypatch)
    split, calls = OnnxDecoder(dense(name) / "model.onnx", CONTEXT, threads=1), lengths_of_calls(monkeypatch)
    for length in (16, 17):
        split.start(prompts_of([length]), 1)
    assert calls == expected


def write_table_decoder(
    path: Path, element: int, cache: str = "appended", logits: str = "found", **notes: str
) -> None:
    """logits = table[token]; keys and values are rows of the same table: exact in every type of numbers."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["found"]),
        helper.make_node("Unsqueeze", ["found", "one"], ["new"]),
        helper.make_node("Concat", ["past_key_values.0.key", "new"], ["present.0.key"], axis=2),
        helper.make_node("Concat", ["past_key_values.0.value", "new"], ["present.0.value"], axis=2),
        helper.make_node("Identity", [logits], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", n]) for n in ("input_ids", "attention_mask")]
    kinds = ("key", "value")
    inputs += [helper.make_tensor_value_info(f"past_key_values.0.{k}", element, ["b", 1, "p", 4]) for k in kinds]
    outputs = [helper.make_tensor_value_info("logits", element, None)]
    outputs += [helper.make_tensor_value_info(f"present.0.{k}", element, ["b", 1, "t", 4]) for k in kinds]
    table = helper.make_tensor("table", element, [8, 4], [value / 4 for value in range(32)])
    initializers = [table, helper.make_tensor("one", TensorProto.INT64, [1], [1])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, {"seap_export.cache": cache} | {f"seap_export.{key}": notes[key] for key in notes})
    onnx.save(model, path)


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_caches_and_logits_of_every_type(tmp_path: Path, element: int) -> None:
    write_table_decoder(tmp_path / "model.onnx", element)
    decoding = OnnxDecoder(tmp_path / "model.onnx", CONTEXT, threads=1).start([[1, 2], [3, 4]], 4)
    table = np.arange(32, dtype=np.float32).reshape(8, 4) / 4
    np.testing.assert_array_equal(decoding.logits, table[[2, 4]])
    decoding.step([7, 5])
    np.testing.assert_array_equal(decoding.logits, table[[7, 5]])
    assert decoding.logits.dtype == np.float32
    for buffer in decoding._cache.buffers.values():
        assert (buffer.element_type(), buffer.shape()) == (element, [2, 1, 3, 4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": "ring"}, r"seap_export\.cache is 'ring'.*; export again"),
        ({"split_up_to": "-1"}, r"split_up_to is '-1', which is no length; export again"),
        ({"element": TensorProto.DOUBLE}, r"input past_key_values\.0\.key "),
        ({"logits": "new"}, r"its logits are \[1, 1, 3, 4\] for tokens \[1, 3\]; export again"),
    ],
)
def test_graphs_of_another_make_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write_table_decoder(tmp_path / "model.onnx", **{"element": TensorProto.FLOAT, **options})
    with pytest.raises(ArtifactError, match=message):
        OnnxDecoder(tmp_path / "model.onnx", CONTEXT).start([[1, 2, 3]], 1)


def test_work_that_would_run_on_the_cpu_is_refused(dense: Callable[..., Path]) -> None:
    decoder = OnnxDecoder(dense("llama-gqa") / "model.onnx", CONTEXT)
    if decoder._model.nodes is None:
        pytest.skip("this ONNX Runtime does not tell where a node runs")
    with pytest.raises(EnvironmentFailure, match=r"model\.onnx: GroupQueryAttention, MatMul, .* would run on the CPU"):
        decoder._refuse_work_on_the_cpu("cuda")


def test_capacity_is_rounded_up_and_within_the_context(dense: Callable[..., Path]) -> None:
    decoder = OnnxDecoder(dense("llama-gqa") / "model.onnx", CONTEXT)
    assert [decoder.capacity(*pair) for pair in ((1, 1), (60, 4), (60, 5), (100, 500))] == [64, 64, 128, 128]
    assert OnnxDecoder(dense("llama-gqa") / "model.onnx", 50).capacity(10, 10) == 50
    decoding = decoder.start([[5] * 63], 1)
    decoding.step([5])
    with pytest.raises(ValueError, match=r"65 tokens.* 64"):
        decoding.step([5])
