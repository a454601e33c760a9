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
ROPE: dict[str, Any] = {"rope_theta": 10000.0, "original_max_position_embeddings": PLACE}
WINDOW: dict[str, Any] = {"model_type": "mistral", "sliding_window": PLACE, **LENGTHS}
FACTORS: dict[str, Any] = {"rope_type": "longrope", "short_factor": [1.0, 1.1] * 4, "long_factor": [4.0, 4.5] * 4}
LONGROPE: dict[str, Any] = {
    **{"model_type": "phi3", "sliding_window": None, "rope_parameters": {**ROPE, **FACTORS}},
    **{"original_max_position_embeddings": PLACE, **LENGTHS},
}
SCALED: dict[str, Any] = {
    **{"model_type": "ministral3", "rope_parameters": {**ROPE, "llama_4_scaling_beta": 0.5}, **LENGTHS}
}
Edit = Callable[[onnx.GraphProto], None]


def compared(folder: Path, config: dict[str, Any], form: OnnxForm, fault: Edit = lambda graph: None) -> ParityReport:
    model, written = write_micro_model(folder / "m", **config), folder / "onnx"
    written.mkdir()
    convert_folder(model, written, form)
    proto = onnx.load(written / "model.onnx", load_external_data=False)
    fault(proto.graph)
    onnx.save(proto, written / "model.onnx")
    how = Execution("cpu", 1)
    return run_parity(model, written, ["one two three four five"], long_tokens=24, decode_steps=4, execution=how)


def window(change: int) -> Edit:
    """Makes the windows of a graph longer."""

    def edit(graph: onnx.GraphProto) -> None:
        attributes = [one for node in graph.node for one in node.attribute if one.name == "local_window_size"]
        assert attributes
        for attribute in attributes:
            attribute.i += change

    return edit


def number(name: str, change: int) -> Edit:
    """Makes an integer of a graph larger."""

    def edit(graph: onnx.GraphProto) -> None:
        (tensor,) = (one for one in graph.initializer if one.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + change, name))

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
    report = compared(tmp_path, config, form)
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
    config: dict[str, Any], fault: Edit, tmp_path: Path
) -> None:
    report = compared(tmp_path, config, OnnxForm(), fault)
    assert {stage.prompts.name for stage in report.stages if stage.reasons} == {CASE}


def test_what_is_not_crossed_is_told_and_without_such_a_place_nothing_is_added(tmp_path: Path) -> None:
    model, plain = write_micro_model(tmp_path / "m", **WINDOW), write_micro_model(tmp_path / "p", model_type="llama")
    config, cases = read_json(model / "config.json"), plan_cases(model, ["one two three"], long_tokens=128)
    spec = model_spec(config)
    added, (line,) = filled_cases(cases, spec, 320, "llama.cpp")
    assert added == ()
    assert "window that changes at 200 tokens was not crossed: llama.cpp takes no cache" in line
    assert "--long-tokens" in line
    assert filled_cases(cases, spec, PLACE, None) == ((), ())  # no text is so long
    (line,) = filled_cases(cases, model_spec(config | {"head_dim": 1 << 20}), 320, None)[1]
    assert "GB" in line
    assert np.shape(filled_cases(cases, spec, 320, None)[0][0].rows) == (1, 4)
    cases, spec = plan_cases(plain, ["one two three"]), model_spec(read_json(plain / "config.json"))
    assert filled_cases(cases, spec, 1 << 20, None) == ((), ())
