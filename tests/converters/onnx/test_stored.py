"""What a graph stores against its model: what differs is named, and what rounding does is let pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from support.editing import edit_tensor

from converters.onnx.form import OnnxForm
from converters.onnx.precision import Precision, choose_precision
from converters.onnx.stored import interface_differences, refuse_bad_data, weight_differences
from seap_export.errors import ArtifactError

FORMS = [
    OnnxForm(),
    OnnxForm(dialect="standard"),
    OnnxForm(Precision("fp16")),
    OnnxForm(choose_precision("int8"), logits="last"),
    OnnxForm(choose_precision("int4", symmetric=False)),
]


def differences(written: Any, form: OnnxForm) -> list[str]:
    return list(weight_differences(written.source, written.folder, form))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.precision.name}-{form.dialect}")
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_what_was_written_does_not_differ(written: Callable[..., Any], family: str, form: OnnxForm) -> None:
    graph = written(family, precision=form.precision, dialect=form.dialect, logits=form.logits)
    refuse_bad_data(graph.folder)
    assert differences(graph, form) == []
    assert list(interface_differences(graph.source, graph.folder, form)) == []


def test_one_number_that_differs_is_named(written: Callable[..., Any]) -> None:
    graph, name = written("llama"), "model.layers.1.mlp.up_proj.weight.transposed"
    edit_tensor(graph.folder / "model.onnx", name, lambda values: values.__setitem__((3, 5), values[3, 5] + 1e-3))
    (line,) = differences(graph, OnnxForm())
    assert line.startswith(f"'{name}' differs from the model's in 1 numbers")
    edit_tensor(graph.folder / "model.onnx", name, lambda values: values.__setitem__((3, 5), np.nan))
    assert differences(graph, OnnxForm()) == [f"'{name}' holds NaN or infinite values"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_row_of_the_embedding_that_is_one_percent_larger_is_named(
    written: Callable[..., Any], precision: Literal["fp16", "bf16"]
) -> None:
    form = OnnxForm(Precision(precision))
    graph, name = written("llama", precision=form.precision), "model.embed_tokens.weight"
    edit_tensor(graph.folder / "model.onnx", name, lambda values: values.__setitem__(77, values[77] * 1.01))
    (line,) = differences(graph, form)
    assert line.startswith(f"'{name}' differs")


@pytest.mark.parametrize("part", ["packed", "scales", "zero_points"])
def test_one_row_of_a_quantised_weight_is_named(written: Callable[..., Any], part: str) -> None:
    form = FORMS[-1]
    graph, name = written("llama", precision=form.precision), "model.layers.1.mlp.up_proj.weight"

    def edit(values: np.ndarray) -> None:
        values[7] = values[7] * 1.1 if part == "scales" else values[7] ^ 1

    edit_tensor(graph.folder / "model.onnx", f"{name}.{part}", edit)
    (line,) = differences(graph, form)
    assert f"'{name}'" in line
    assert line.endswith("row 7")


def test_a_node_that_computes_with_another_number_is_named(written: Callable[..., Any]) -> None:
    graph = written("llama")
    proto = onnx.load(graph.folder / "model.onnx", load_external_data=False)
    node = next(node for node in proto.graph.node if node.name == "layers.1.input_layernorm")
    next(attribute for attribute in node.attribute if attribute.name == "epsilon").f = 1e-3
    onnx.save(proto, graph.folder / "model.onnx")
    (line,) = differences(graph, OnnxForm())
    assert line.startswith("node 'layers.1.input_layernorm' ")
    assert "epsilon" in line


def test_inputs_of_another_model_are_named(written: Callable[..., Any]) -> None:
    graph = written("llama")
    proto = onnx.load(graph.folder / "model.onnx", load_external_data=False)
    item = next(item for item in proto.graph.input if item.name == "past_key_values.1.key")
    item.type.tensor_type.shape.dim[1].dim_value = 4
    onnx.save(proto, graph.folder / "model.onnx")
    (line,) = interface_differences(graph.source, graph.folder, OnnxForm())
    assert line.startswith("input 'past_key_values.1.key' is ")


@pytest.mark.parametrize("change_size", [-1, 1])
def test_a_data_file_of_another_size_is_refused(written: Callable[..., Any], change_size: int) -> None:
    graph = written("llama")
    path = graph.folder / "model.onnx.data"
    data = path.read_bytes()
    path.write_bytes(data[:-1] if change_size < 0 else data + b"\0")
    with pytest.raises(ArtifactError, match=rf"the data file has {len(data) + change_size} bytes"):
        refuse_bad_data(graph.folder)


def test_a_data_file_elsewhere_is_refused(written: Callable[..., Any]) -> None:
    graph = written("llama")
    proto = onnx.load(graph.folder / "model.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../elsewhere.data"
    onnx.save(proto, graph.folder / "model.onnx")
    with pytest.raises(ArtifactError, match=r"its data file '\.\./elsewhere\.data' |cannot be read as ONNX"):
        refuse_bad_data(graph.folder)
