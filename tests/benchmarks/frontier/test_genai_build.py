"""The head size, which GenAI's builder names only, is written into the cache's inputs and outputs."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from benchmarks.frontier.programs.genai_build import declare_head_size
from onnx import TensorProto, helper


def test_the_cache_gets_its_head_size(tmp_path: Path) -> None:
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    past, present = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, "past", "kv_cache_dim"])
        for name in ("past_key_values.0.key", "present.0.key")
    )
    node = helper.make_node("Identity", ["past_key_values.0.key"], ["present.0.key"])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [ids, past], [present])), tmp_path / "model.onnx")
    config = {"model": {"decoder": {"head_size": 64}}}
    (tmp_path / "genai_config.json").write_text(json.dumps(config), "utf-8")

    declare_head_size(tmp_path)

    graph = onnx.load(tmp_path / "model.onnx").graph
    dims = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)}
    assert [dim.dim_value or dim.dim_param for dim in dims["past_key_values.0.key"]] == ["batch", 3, "past", 64]
    assert dims["present.0.key"][3].dim_value == 64
    assert len(dims["input_ids"]) == 2
