"""Folders for transformers.js: what they hold, what is read back from them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from support.chosen import JOINT, in_turn
from support.formats.web import WebModel
from support.formats.web_faults import FAULTS, QUANTISED, Edit
from support.models import write_source
from support.product import read_spec, round_weights
from support.variations import VARIATIONS, micro_config

from converters.web import WebFormat, data_files
from converters.web.graph import KEPT
from converters.web.precisions import file_name, precision_of
from seap_export.common.json_file import read_json
from seap_export.errors import ArtifactError
from seap_export.model.families import model_spec
from seap_export.runtime.session import open_session


def faults(model: Any) -> list[str]:
    return [*model.format.differences(model.source, model.folder), *model.format.damages(model.source, model.folder)]


def read_back(model: Any) -> dict[str, torch.Tensor]:
    weights = model.format.weights(model.folder, model.spec)
    return {name: weights.read([name])[name] for name in load_file(model.source / "model.safetensors")}


@pytest.mark.parametrize(("variation", "pruned"), in_turn(JOINT, [False, True]))
def test_what_is_read_back_is_the_model(webbed: Callable[..., Any], variation: str, pruned: bool) -> None:
    model = webbed(variation, pruned=pruned)
    assert faults(model) == []
    assert model.layers == (0, 1, 2)
    stored = {name: tensor.float() for name, tensor in load_file(model.source / "model.safetensors").items()}
    for name, tensor in read_back(model).items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, stored[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("variation", "precision"),
    [
        ("llama-biases", "q8"),
        ("gemma3-all", "q4"),
        ("phi3-all", "fp16"),
        ("llama-biases", "q4f16"),
        ("phi3-all", "q4"),
    ],
)
def test_what_is_read_back_is_rounded(webbed: Callable[..., Any], variation: str, precision: str) -> None:
    model = webbed(variation, precision)
    assert faults(model) == []
    stored = {name: tensor.float() for name, tensor in load_file(model.source / "model.safetensors").items()}
    change = round_weights(model.spec, precision_of(precision))
    expected = stored if change is None else change(stored)
    for name, tensor in read_back(model).items():
        torch.testing.assert_close(tensor, expected[name], rtol=2e-3, atol=1e-3, msg=name)
    matrix = model.spec.family.stored("embed_tokens")
    assert not torch.equal(read_back(model)[matrix], stored[matrix])


def test_the_logits_of_as_many_last_tokens_are_given_as_are_asked_for(webbed: Callable[..., Any]) -> None:
    model, ids = webbed(), np.array([[4, 5, 6]])
    session = open_session(model.graph, "cpu", 1)
    past = [item for item in session.get_inputs() if item.name.startswith("past")]
    feeds = {item.name: np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32) for item in past}
    feeds |= {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    every, last = (session.run(["logits"], {**feeds, KEPT: np.array(kept)})[0] for kept in (0, 2))
    np.testing.assert_allclose(last, every[:, 1:], rtol=1e-5)


def test_data_are_divided_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 75_000
    monkeypatch.setattr(data_files, "CHUNK_BYTES", limit)
    model = WebModel.of(WebFormat("fp32"), write_source(tmp_path / "hf", "llama-gqa", pruned=False))
    sizes = [path.stat().st_size for path in model.graph.parent.glob("*_data*")]
    assert len(sizes) > 5
    assert max(sizes) <= limit
    config = read_json(model.folder / "config.json")["transformers.js_config"]
    assert config["use_external_data_format"] == {"model.onnx": len(sizes)}
    assert model.data.with_name(f"model.onnx_data_{len(sizes) - 1}").is_file()
    assert model.layers == (0, 1, 2)
    assert faults(model) == []
    stored = load_file(model.source / "model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in read_back(model).items())


def test_rows_of_no_whole_blocks_stay_as_they_are(tmp_path: Path) -> None:
    source = write_source(tmp_path / "m", "llama-tied", pruned=False, hidden_size=72)
    spec = read_spec(source)
    folder = tmp_path / "out"
    folder.mkdir()
    format = WebFormat("q4")
    format.write(source, folder, lambda _: None)
    assert [*format.differences(source, folder), *format.damages(source, folder)] == []
    stored = load_file(source / "model.safetensors")
    read = format.weights(folder, spec).read(stored)
    table = "model.embed_tokens.weight"
    assert torch.equal(read[table], stored[table])
    assert not torch.equal(read["model.layers.0.mlp.up_proj.weight"], stored["model.layers.0.mlp.up_proj.weight"])


def test_tensors_that_no_browser_holds_are_refused(webbed: Callable[..., Any]) -> None:
    model = webbed("llama-tied", pruned=False)
    spec = replace(model.spec, vocab_size=30_000_000)
    reason = WebFormat("fp32").refusal(spec, model.source)
    assert reason is not None
    assert "11.5 GB" in reason
    assert reason.endswith("use web:q4")
    assert WebFormat("q4").refusal(spec, model.source) is None
    assert "use another format" in str(WebFormat("fp32").refusal(replace(spec, vocab_size=300_000_000), model.source))
    assert WebFormat("fp32").refusal(model.spec, model.source) is None


@pytest.mark.parametrize(
    ("variation", "precision", "words"),
    [
        ("gemma2-all", "q8", "WebGPU ignores the soft cap"),
        ("gemma4-all", "q8", None),
        ("qwen3_5-all", "q4f16", "WebGPU has no recurrence in float16"),
        ("qwen3_5-all", "q4", None),
        ("lfm2-all", "fp16", None),
        ("olmoe", "q4", "WebGPU computes this model's rounded experts wrongly"),
        ("olmoe", "fp16", None),
    ],
)
def test_models_that_webgpu_does_not_compute_are_remarked_on(
    variation: str, precision: str, words: str | None
) -> None:
    remark = WebFormat(precision).remark(model_spec(micro_config(**VARIATIONS[variation])))
    assert remark is None if words is None else words in str(remark)


@pytest.mark.parametrize(("variation", "precision"), [("olmoe", "fp32"), ("gpt_oss-all", "q8"), ("olmoe", "q4")])
def test_mixtures_are_written(webbed: Callable[..., Any], variation: str, precision: str) -> None:
    """Without attributes of QMoE that ONNX Runtime 1.30, which transformers.js has in Node, does not know."""
    model = webbed(variation, precision, pruned=False)
    assert faults(model) == []
    assert model.format.size(model.spec) == pytest.approx(model.data.stat().st_size, rel=0.03)
    nodes = onnx.load(model.graph, load_external_data=False).graph.node
    (names,) = {
        frozenset(attribute.name for attribute in node.attribute)
        for node in nodes
        if node.op_type == ("MoE" if precision == "fp32" else "QMoE")
    }
    assert not names & {"accuracy_level", "weights_prepacked"}


def test_no_attention_is_without_sinks_where_webgpu_would_compute_wrongly(webbed: Callable[..., Any]) -> None:
    model = webbed("llama-tied", pruned=True)
    graph = onnx.load(model.folder / "onnx" / file_name(model.format.precision), load_external_data=False).graph
    attention = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    assert attention
    sinks = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if "sinks" in tensor.name}
    for node in attention:
        (heads,) = (attribute.i for attribute in node.attribute if attribute.name == "num_heads")
        assert sinks[node.input[11]].shape == (heads,)
        assert (sinks[node.input[11]] < -1e4).all()


def said(model: Any, check: str) -> list[str]:
    try:
        return list(getattr(model.format, check)(model.source, model.folder))
    except ArtifactError as error:
        return [str(error)]


CASES = [(*fault, "fp32") for fault in FAULTS]
CASES += [(*fault, precision) for fault, precision in zip(QUANTISED, ("q8", "q4", "q8"), strict=True)]


@pytest.mark.planted("web")
@pytest.mark.parametrize(
    ("edit", "check", "word", "precision"), [case[1:] for case in CASES], ids=[name for name, *_ in CASES]
)
def test_fault_is_found(webbed: Callable[..., Any], edit: Edit, check: str, word: str, precision: str) -> None:
    model = webbed(precision=precision)
    edit(model)
    lines = said(model, check)
    assert any(word in line for line in lines), lines
    assert all("\n" not in line for line in lines)
