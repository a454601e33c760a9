"""What a graph stores against its model: what differs is named, and what rounding does is let pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.editing import edit_tensor

from converters.onnx.form import OnnxForm
from converters.onnx.precision import Precision, choose_precision
from converters.onnx.stored import weight_differences

FORMS = [
    OnnxForm(),
    OnnxForm(dialect="standard"),
    OnnxForm(Precision("fp16")),
    OnnxForm(choose_precision("int8"), logits="last"),
    OnnxForm(choose_precision("int4", symmetric=False)),
]


def differences(written: Any, form: OnnxForm) -> list[str]:
    return list(weight_differences(written.source, written.folder, form))


def test_one_number_that_differs_is_named(written: Callable[..., Any]) -> None:
    graph, name = written("llama"), "model.layers.1.mlp.up_proj.weight.transposed"
    edit_tensor(graph.folder / "model.onnx", name, lambda values: values.__setitem__((3, 5), values[3, 5] + 1e-3))
    (line,) = differences(graph, OnnxForm())
    assert line.startswith(f"'{name}' differs from the model's in 1 numbers")
    edit_tensor(graph.folder / "model.onnx", name, lambda values: values.__setitem__((3, 5), np.nan))
    assert differences(graph, OnnxForm()) == [f"'{name}' holds NaN or infinite values"]


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
