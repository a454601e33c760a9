from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from seap_export.errors import ArtifactError
from seap_export.runtime.session import open_session
from validation.onnx_runner import OnnxRunner


def test_a_graph_that_is_no_decoder_is_refused(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=r"inputs are not those of a decoder with a KV cache: \['x'\]"):
        OnnxRunner(open_session(tmp_path / "model.onnx"))
