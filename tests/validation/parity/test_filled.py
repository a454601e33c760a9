"""Where a model begins to compute differently beyond the longest text, a filled cache crosses the place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.models import write_micro_model

from converters.onnx.folder import convert_folder
from converters.onnx.form import OnnxForm
from converters.onnx.precision import Precision
from seap_export.common.json_file import read_json
from seap_export.model.families import model_spec
from validation.execution import Execution
from validation.parity.filled import filled_cases
from validation.parity.report import ParityReport
from validation.parity.run import plan_cases, run_parity

PLACE = 200  # above the 128 tokens that every long prompt has
CASE = f"filled cache of {PLACE}"
LENGTHS: dict[str, Any] = {"max_position_embeddings": 320}
WINDOW: dict[str, Any] = {"model_type": "mistral", "sliding_window": PLACE, **LENGTHS}
LONGROPE: dict[str, Any] = {
    "model_type": "phi3",
    "sliding_window": None,
    "original_max_position_embeddings": PLACE,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": PLACE,
        "short_factor": [1.0, 1.1] * 4,
        "long_factor": [4.0, 4.5] * 4,
    },
    **LENGTHS,
}
SCALED: dict[str, Any] = {
    "model_type": "ministral3",
    "rope_parameters": {
        "rope_theta": 10000.0,
        "original_max_position_embeddings": PLACE,
        "llama_4_scaling_beta": 0.5,
    },
    **LENGTHS,
}


def compared(
    folder: Path, config: dict[str, Any], form: OnnxForm, fault: Callable[[Path], None] | None
) -> ParityReport:
    model, graph = write_micro_model(folder / "m", **config), folder / "onnx"
    graph.mkdir()
    convert_folder(model, graph, form)
    if fault is not None:
        fault(graph / "model.onnx")
    how = Execution("cpu", 1)
    return run_parity(model, graph, ["one two three four five"], long_tokens=24, decode_steps=4, execution=how)


def window(change: int) -> Callable[[Path], None]:
    """Makes the windows of a graph longer."""

    def edit(graph: Path) -> None:
        proto = onnx.load(graph, load_external_data=False)
        attributes = [one for node in proto.graph.node for one in node.attribute if one.name == "local_window_size"]
        assert attributes
        for attribute in attributes:
            attribute.i += change
        onnx.save(proto, graph)

    return edit


def number(name: str, change: int) -> Callable[[Path], None]:
    """Makes an integer of a graph larger."""

    def edit(graph: Path) -> None:
        proto = onnx.load(graph, load_external_data=False)
        (tensor,) = (one for one in proto.graph.initializer if one.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + change, name))
        onnx.save(proto, graph)

    return edit


@pytest.mark.parametrize(
    ("config", "form"),
    [
        (WINDOW, OnnxForm()),
        (WINDOW, OnnxForm(dialect="standard")),
        (LONGROPE, OnnxForm(Precision("fp16"))),
        (SCALED, OnnxForm()),
    ],
    ids=["window", "standard", "longrope-fp16", "scaled"],
)
def test_good_graphs_pass(config: dict[str, Any], form: OnnxForm, tmp_path: Path) -> None:
    report = compared(tmp_path, config, form, None)
    assert (report.reasons, report.remarks) == ((), ())
    crossing = [stage for stage in report.stages if stage.prompts.name == CASE]
    assert [stage.stage for stage in crossing] == ["prefill", "decode"]
    assert all(stage.figures.tokens for stage in crossing)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (WINDOW, window(1)),
        (WINDOW, window(-1)),
        (LONGROPE, number("rows_0.start", 1)),
        (LONGROPE, number("rows_0.start", -1)),
        (SCALED, number("query_scaling.context", 1)),
        (SCALED, number("query_scaling.context", -1)),
    ],
    ids=["window+1", "window-1", "switch+1", "switch-1", "scaled+1", "scaled-1"],
)
def test_what_is_wrong_beyond_the_place_is_found_there_alone(
    config: dict[str, Any], fault: Callable[[Path], None], tmp_path: Path
) -> None:
    report = compared(tmp_path, config, OnnxForm(), fault)
    assert {stage.prompts.name for stage in report.stages if stage.reasons} == {CASE}


def test_what_is_not_crossed_is_told(tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "m", **WINDOW)
    spec, cases = model_spec(read_json(model / "config.json")), plan_cases(model, ["one two three"], long_tokens=128)
    added, told = filled_cases(cases, spec, 320, "llama.cpp")
    assert added == ()
    (line,) = told
    assert "window that changes at 200 tokens was not crossed: llama.cpp takes no cache" in line
    assert "--long-tokens" in line
    assert filled_cases(cases, spec, PLACE, None) == ((), ())  # no text is so long
    large = model_spec(read_json(model / "config.json") | {"head_dim": 1 << 20})
    (line,) = filled_cases(cases, large, 320, None)[1]
    assert "GB" in line
    ids = np.array(filled_cases(cases, spec, 320, None)[0][0].rows)
    assert ids.shape == (1, 4)


def test_without_such_a_place_nothing_is_added(tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "m", model_type="llama")
    cases = plan_cases(model, ["one two three"])
    assert filled_cases(cases, model_spec(read_json(model / "config.json")), 1 << 20, None) == ((), ())
