"""Graphs of any exporter give what torch gives, fed by the names and shapes that they declare."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from benchmarks.peers.sessions import PlainGraph
from onnx import TensorProto, helper
from support.models import write_micro_model
from support.product import OnnxForm
from support.variations import VARIATIONS
from transformers import AutoModelForCausalLM

from converters.onnx import write_onnx
from seap_export.errors import ArtifactError

PROMPT, TOKENS = [5, 9, 3, 17, 40, 8], [11, 2, 60]


def _graph_of(path: Path, shape: list[str | int], names: tuple[str, ...] = ("past_key_values.0.key",)) -> Path:
    """Ones as logits, a cache that stays as it is, and positions that reach no logit unless they are fed."""
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "s"])]
    inputs += [helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["b", "s"])]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "s", 1])]
    outputs += [helper.make_tensor_value_info("present.0.key", TensorProto.FLOAT, shape)]
    nodes = [
        helper.make_node("Cast", ["position_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["floats", "axis"], ["logits"]),
        helper.make_node("Identity", [names[0]], ["present.0.key"]),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [2])
    graph = helper.make_graph(nodes, "g", inputs, outputs, [axis])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.mark.parametrize("form", ["ours", "last", "standard"])
def test_logits_are_those_of_torch(form: str, graphs: dict[str, Path], dense: Path) -> None:
    graph = PlainGraph(graphs[form], 1)
    model = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(torch.tensor([PROMPT + TOKENS])).logits[0, len(PROMPT) - 1 :].numpy()
    for _ in range(2):  # a second prompt begins with an empty cache again
        assert np.abs(graph.follow(PROMPT, TOKENS) - expected).max() < 1e-3


def test_each_token_is_the_most_likely_after_those_before(graphs: dict[str, Path]) -> None:
    graph = PlainGraph(graphs["ours"], 1)
    tokens = graph.continue_greedily(PROMPT, 3)
    assert len(tokens) == 4
    assert graph.follow(PROMPT, tokens[:-1]).argmax(axis=1).tolist() == tokens


def test_positions_are_fed_where_the_graph_asks_for_them(tmp_path: Path) -> None:
    graph = PlainGraph(_graph_of(tmp_path / "model.onnx", ["b", 2, "p", 8]), 1)
    assert graph.follow(PROMPT, TOKENS).ravel().tolist() == [5, 6, 7, 8]


def test_the_builders_head_size_is_in_its_config(tmp_path: Path) -> None:
    config = {"model": {"decoder": {"head_size": 24}}}
    (tmp_path / "genai_config.json").write_text(json.dumps(config), "utf-8")
    graph = PlainGraph(_graph_of(tmp_path / "model.onnx", ["b", 2, "p", "kv_cache_dim"]), 1)
    assert graph.prefill(PROMPT).tolist() == [5]


def test_what_cannot_be_fed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"past_key_values\.0\.key is not a cache with fixed heads"):
        PlainGraph(_graph_of(tmp_path / "model.onnx", ["b", "h", "p", 8]), 1)
    with pytest.raises(ArtifactError, match=r"with a supported cache: \['states'\]"):
        PlainGraph(_graph_of(tmp_path / "other.onnx", ["b", 2, "p", 8], ("past_key_values.0.key", "states")), 1)
    both = ("past_key_values.0.key", "past_key_values.0.value")
    with pytest.raises(ArtifactError, match=r"it has no output present\.0\.value"):
        PlainGraph(_graph_of(tmp_path / "third.onnx", ["b", 2, "p", 8], both), 1)


def test_states_of_a_fixed_size_are_carried_on(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    write_onnx(write_micro_model(tmp_path / "model", **VARIATIONS["qwen3_5"]), tmp_path / "onnx", OnnxForm())
    graph = PlainGraph(tmp_path / "onnx" / "model.onnx", 1)
    steps = graph.follow(PROMPT, TOKENS)[-1]
    np.testing.assert_allclose(steps, graph.prefill(PROMPT + TOKENS), rtol=0, atol=1e-4)
