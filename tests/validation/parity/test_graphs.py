"""The gate on real graphs of micro models: sound graphs pass, and what is planted in them does not."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.chosen import FEATURED, JOINT, VARIED
from support.editing import edit_tensor
from support.execution import ONE_THREAD
from support.formats.written import complaints
from support.models import skip_unless_loaded, write_micro_model, write_source
from support.product import (
    SOFTWARE,
    OnnxForm,
    OnnxFormat,
    Precision,
    PrecisionName,
    choose_precision,
    convert_folder,
    device_name,
)
from support.variations import VARIATIONS, micro_config

from converters.onnx.graph.dialects import POISON
from converters.onnx.graph.dialects.looped import is_looped
from seap_export.common.json_file import read_json
from seap_export.common.providers import Dtype, WrittenFor
from seap_export.errors import InputError, ParityFailure
from seap_export.model.families import Attention, Experts, family_of_model_type, model_spec
from validation.execution import Execution
from validation.parity.filled import filled_cases
from validation.parity.profiles import Limits
from validation.parity.report import ParityReport
from validation.parity.run import plan_cases, run_parity

PROMPTS = ("the cat sat on the mat and the dog sat on the cat", "a dog", "the mat and a cat sat on a dog")
_UP_PROJ, _EXTRA = (f"model.layers.{layer}.mlp.up_proj.weight" for layer in (1, 3))
PLACE = 200  # where models begin to compute differently, above the 128 tokens that every long prompt has
CROSSING = f"filled cache of {PLACE}"
LENGTHS: dict[str, Any] = {"max_position_embeddings": 320}
ROPE: dict[str, Any] = {"rope_theta": 10000.0, "original_max_position_embeddings": PLACE}
FACTORS: dict[str, Any] = {"type": "longrope", "short_factor": [1.0, 1.1] * 4, "long_factor": [4.0, 4.5] * 4}
WINDOW: dict[str, Any] = {"model_type": "mistral", "sliding_window": PLACE, **LENGTHS}
LONGROPE: dict[str, Any] = {
    **{"model_type": "phi3", "sliding_window": None, "rope_scaling": FACTORS, **ROPE, **LENGTHS}
}
SCALED: dict[str, Any] = {
    **{"model_type": "ministral3", "rope_parameters": {**ROPE, "llama_4_scaling_beta": 0.5}, **LENGTHS}
}
#: Head norms and, with this width, products of gate and up in one node.
WIDE = {**VARIATIONS["qwen3"], "intermediate_size": 96, "hidden_size": 64}


#: At 128 inputs, kernels that multiply integers are within reach.
FOR_INTEGERS = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 8, "num_key_value_heads": 4}
#: Few that have what WebGPU does in a way of its own: a tied head, sinks, and states of a fixed size.
QUICK = ("smollm3-all", "qwen3_5-all")
#: What float16 may lose on random weights: WebGPU adds products up in it, which is beyond torch's noise.
IN_FLOAT16 = Limits(tuple((name, "mean_kl", 0.2) for name in ("fp16", "int8", "int4")))
FULL, RELEASE = pytest.mark.full, pytest.mark.release


def on_gpu(provider: WrittenFor, precision: PrecisionName, activations: Dtype | None = None) -> OnnxForm:
    how = choose_precision(precision, provider, activations=activations if precision.startswith("int") else None)
    return OnnxForm(how, "fused", "last", provider)


#: A pruned model or the values of one, and the form of its graph. The CPU runs graphs for CUDA, too.
SOURCES: dict[str, tuple[str | dict[str, Any], OnnxForm]] = {
    "llama": ("Llama", OnnxForm()),
    "int4": ("Llama", OnnxForm(choose_precision("int4"))),
    "int4 with zero points": ("Llama", OnnxForm(choose_precision("int4", symmetric=False))),
    "cuda": (WIDE, on_gpu("cuda", "fp16")),
    "cuda, int4": (WIDE, on_gpu("cuda", "int4")),
    "window": (WINDOW, OnnxForm()),
    "window, standard": (WINDOW, OnnxForm(dialect="standard")),
    "longrope": (LONGROPE, OnnxForm()),
    "longrope, fp16": (LONGROPE, OnnxForm(Precision("fp16"))),
    "scaled": (SCALED, OnnxForm()),
}
SOURCES_ON_WEBGPU: dict[str, tuple[str | dict[str, Any], OnnxForm]] = {
    "webgpu": ("smollm3-all", on_gpu("webgpu", "fp32")),
    "webgpu, fp16": ("llama-gqa", on_gpu("webgpu", "fp16")),
}
Written = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def written(micro_hf: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Written:
    """`written("llama")`: the folder of that model, and of its graph."""

    @cache
    def write(name: str) -> tuple[Path, Path]:
        values, form = {**SOURCES, **SOURCES_ON_WEBGPU}[name]
        folder = tmp_path_factory.mktemp("graph")
        if name in SOURCES_ON_WEBGPU:
            hf = write_source(folder / "hf", str(values), pruned=True)
        else:
            hf = micro_hf(values) if isinstance(values, str) else write_micro_model(folder / "hf", **values)
        (folder / "onnx").mkdir()
        convert_folder(hf, folder / "onnx", form)
        return hf, folder / "onnx"

    return write


def compared(hf: Path, folder: Path, prompts: Any = PROMPTS, **options: Any) -> ParityReport:
    """The gate, with fewer steps; the long prompt is beyond the 31 tokens from which kernels of WebGPU differ."""
    return run_parity(
        hf, folder, prompts, **{"execution": ONE_THREAD, "decode_steps": 4, "long_tokens": 64, **options}
    )


@pytest.mark.parametrize("name", SOURCES)
def test_sound_graphs_pass(written: Written, name: str) -> None:
    """Where a model computes differently beyond the longest text, a filled cache crosses the place."""
    hf, folder = written(name)
    report = compared(hf, folder)
    assert (report.reasons, report.remarks) == ((), ())
    assert complaints(OnnxFormat.read(folder), hf, folder) == []
    crossing = [stage for stage in report.stages if stage.prompts.name == CROSSING]
    assert [stage.stage for stage in crossing] == (["prefill", "decode"] if "max_p" in str(SOURCES[name][0]) else [])
    assert all(stage.figures.tokens for stage in crossing)


@pytest.mark.parametrize("case", [*VARIED, "Qwen2", "Mistral standard", "gemma4-all standard"])
def test_a_model_passes(micro_hf: Callable[[str], Path], tmp_path: Path, case: str) -> None:
    """The long prompt and its steps pass the tokens at which the micro phi3's longrope switches."""
    name, _, dialect = case.partition(" ")
    if is_dense := name in VARIATIONS:
        skip_unless_loaded(family_of_model_type(VARIATIONS[name]["model_type"]))
    hf = write_micro_model(tmp_path / "hf", **VARIATIONS[name]) if is_dense else micro_hf(name)
    (tmp_path / "onnx").mkdir()
    convert_folder(hf, tmp_path / "onnx", OnnxForm(dialect=cast(Any, dialect or "fused")))
    report = run_parity(hf, tmp_path / "onnx", PROMPTS, execution=ONE_THREAD)
    assert report.passed, report.reasons
    assert report.max_abs is not None
    assert report.max_abs < (1e-3 if is_dense else 1e-4)
    assert report.noise_kl is None


ON_WEBGPU: list[tuple[str, PrecisionName, Dtype | None, dict[str, Any], Any]] = [
    *((name, "fp32", None, {}, () if name in QUICK else FULL) for name in FEATURED),
    ("smollm3-all", "int4", "fp16", {}, ()),
    ("llama-gqa", "int4", None, FOR_INTEGERS, ()),
    ("llama-gqa", "int8", None, FOR_INTEGERS, FULL),
    ("qwen3_5-all", "int8", None, {}, RELEASE),
    ("lfm2-all", "fp16", "fp16", {}, RELEASE),
    ("nemotron_h-all", "int4", None, {}, FULL),
    ("nemotron_h-all", "fp16", "fp16", {}, FULL),
]


@pytest.mark.parametrize(
    ("name", "precision", "activations", "values"), [pytest.param(*case, marks=marks) for *case, marks in ON_WEBGPU]
)
@pytest.mark.needs("webgpu")
def test_families_and_precisions_on_webgpu(
    name: str, precision: PrecisionName, activations: Dtype | None, values: dict[str, Any], tmp_path: Path
) -> None:
    """Soft caps and loops over experts are refused. No activations are rounded; in float16 they really are of it."""
    skip_unless_loaded(family_of_model_type(VARIATIONS[name]["model_type"]))
    hf, folder = write_source(tmp_path / "hf", name, pruned=name in JOINT and not values, **values), tmp_path / "onnx"
    folder.mkdir()
    spec, form = model_spec(micro_config(**VARIATIONS[name])), on_gpu("webgpu", precision, activations)
    is_capped = any(one.softcap is not None for one in spec.all(Attention))
    if is_capped or any(map(is_looped, spec.all(Experts))):
        with pytest.raises(InputError, match="soft cap" if is_capped else "experts"):
            convert_folder(hf, folder, form)
        return
    convert_folder(hf, folder, form)
    limits = Limits() if activations is None else IN_FLOAT16
    report = compared(hf, folder, execution=Execution("webgpu", 1), limits=limits)
    assert report.passed, report.reasons
    assert report.max_abs is not None
    assert (report.max_abs < 1e-3) is (activations is None)
    assert report.conditions.provider == "WebGpuExecutionProvider"
    assert report.conditions.gpu


class Graph(NamedTuple):
    """A copy of a graph to plant a fault in."""

    path: Path
    proto: onnx.GraphProto

    def node(self, name: str) -> onnx.NodeProto:
        return next(each for each in self.proto.node if each.name == name)

    def change(self, name: str, change: Callable[[np.ndarray], object]) -> None:
        (tensor,) = (one for one in self.proto.initializer if one.name == name)
        values = numpy_helper.to_array(tensor).copy()
        change(values)
        tensor.CopyFrom(numpy_helper.from_array(values, name))


def added(graph: Graph, name: str, by: int) -> None:
    graph.change(name, lambda values: np.add(values, by, out=values))


def wrong_row(graph: Graph, part: str) -> None:
    def change(values: np.ndarray) -> None:
        values[3] = values[3] * np.float32(1.05) if part == "scales" else values[3] ^ 1

    edit = graph.change if part == "zero_points" else partial(edit_tensor, graph.path)
    edit(f"{_UP_PROJ}.{part}", change)


def other_sign(graph: Graph) -> None:
    def change(weights: np.ndarray) -> None:
        weights[np.unravel_index(np.abs(weights).argmax(), weights.shape)] *= -1

    edit_tensor(graph.path, f"{_UP_PROJ}.transposed", change)


def caches_swapped(graph: Graph) -> None:
    first, other = (f"past_key_values.{layer}.value" for layer in (0, 2))
    for node in graph.proto.node:
        node.input[:] = [{first: other, other: first}.get(name, name) for name in node.input]


def window(graph: Graph, change: int) -> None:
    attributes = [one for node in graph.proto.node for one in node.attribute if one.name == "local_window_size"]
    for attribute in attributes:
        attribute.i += change


def without_poison(graph: Graph) -> None:
    graph.node(POISON).op_type = "Identity"
    del graph.node(POISON).input[1:]


def gate_and_up_swapped(graph: Graph) -> None:
    gated = graph.node("layers.1.mlp.gated")
    gated.input[0], gated.input[2] = gated.input[2], gated.input[0]


def tokens_of_the_whole_row(graph: Graph) -> None:
    """The last token is counted from the start of the text, not of the call."""
    graph.node("last_token.end").input[0] = graph.node("mask.count").output[0]


def padding_counted(graph: Graph) -> None:
    count = graph.node("mask.count")
    index = list(graph.proto.node).index(count)
    count.input[0] = "ones"
    ones = helper.make_node("Equal", ["attention_mask", "attention_mask"], ["same"], "planted.same")
    graph.proto.node.insert(index, ones)
    cast_ones = helper.make_node("Cast", ["same"], ["ones"], "planted.ones", to=onnx.TensorProto.INT64)
    graph.proto.node.insert(index + 1, cast_ones)


def without_sinks(graph: Graph, kept: tuple[str, ...] = ("smooth_softmax",)) -> None:
    """One more score of 0 in each softmax."""
    for node in (node for node in graph.proto.node if node.op_type == "GroupQueryAttention"):
        del node.input[7 + 2 :]
        attributes = [one for one in node.attribute if one.name != "smooth_softmax" or one.name in kept]
        del node.attribute[:]
        node.attribute.extend(attributes)


def without_the_way_around(graph: Graph) -> None:
    """The kernel for long prompts, which other providers compute rightly."""
    without_sinks(graph, ())


def with_sinks(graph: Graph) -> None:
    """Sinks that take part."""
    for name in {tensor.name for tensor in graph.proto.initializer if tensor.name.startswith("no_sinks")}:
        graph.change(name, lambda values: values.fill(0.0))


def beyond_float16(graph: Graph) -> None:
    """Products of gate and up that are too large, and an output projection that makes up for it."""
    for part, factor in (("up", 2.0**12), ("down", 2.0**-12)):
        name = f"model.layers.1.mlp.{part}_proj.weight.transposed"
        edit_tensor(graph.path, name, lambda values, by=factor: np.multiply(values, np.float16(by), out=values))


FAULTS: dict[str, tuple[str, Callable[..., None]]] = {
    **{f"row of {part}": ("int4", partial(wrong_row, part=part)) for part in ("packed", "scales")},
    "row of zero points": ("int4 with zero points", partial(wrong_row, part="zero_points")),
    "sign": ("llama", other_sign),
    "caches": ("llama", caches_swapped),
    "no poison": ("cuda", without_poison),
    "poison of the second column": ("cuda", partial(added, name="first_column", by=1)),
    "gate and up": ("cuda", gate_and_up_swapped),
    "tokens of the whole row": ("cuda", tokens_of_the_whole_row),
    "padding": ("cuda", padding_counted),
    **{f"window {change:+}": ("window", partial(window, change=change)) for change in (1, -1)},
    **{
        f"{source} {change:+}": (source, partial(added, name=name, by=change))
        for source, name in (("longrope", "rows_0.start"), ("scaled", "query_scaling.context"))
        for change in (1, -1)
    },
}
#: The CPU's kernels, which widen float16 to float32, do not see the last.
FAULTS_ON_WEBGPU: dict[str, tuple[str, Callable[..., None]]] = {
    "no way around": ("webgpu", without_the_way_around),
    "no sinks": ("webgpu", without_sinks),
    "sinks": ("webgpu", with_sinks),
    "overflow": ("webgpu, fp16", beyond_float16),
}


@pytest.mark.parametrize(
    "fault", ["no way around", *(pytest.param(fault, marks=RELEASE) for fault in ("no sinks", "sinks", "overflow"))]
)
@pytest.mark.needs("webgpu")
@pytest.mark.planted("webgpu")
def test_a_fault_on_webgpu_is_stopped(written: Written, fault: str, tmp_path: Path) -> None:
    if fault == "no way around" and device_name("webgpu") != SOFTWARE:
        pytest.skip("some GPUs compute it rightly")
    source, plant = FAULTS_ON_WEBGPU[fault]
    hf, folder = planted(written(source), plant, tmp_path)
    report = compared(hf, folder, execution=Execution("webgpu", 1), limits=IN_FLOAT16)
    assert not report.passed
    if fault == "overflow":
        assert "NaN" in report.failure() or "inf" in report.failure()
        assert compared(hf, folder).passed


def planted(folders: tuple[Path, Path], plant: Callable[..., None], out: Path) -> tuple[Path, Path]:
    folder = Path(shutil.copytree(folders[1], out / "onnx"))
    proto = onnx.load(folder / "model.onnx", load_external_data=False)
    plant(Graph(folder / "model.onnx", proto.graph))
    onnx.save(proto, folder / "model.onnx")
    return folders[0], folder


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_stopped(written: Written, fault: str, tmp_path: Path) -> None:
    source, plant = FAULTS[fault]
    hf, folder = planted(written(source), plant, tmp_path)
    try:
        report = compared(hf, folder)
    except ParityFailure:
        assert source == "cuda"
        return
    assert not report.passed
    failed = {(stage.prompts.name, stage.stage) for stage in report.stages if stage.reasons}
    if fault == "caches":  # the prompt that runs in several calls meets the cache before it is decoded
        assert {stage for name, stage in failed if name != "long prompt"} == {"decode"}
        assert ("long prompt", "prefill") in failed
    elif source.startswith("int4"):
        assert "in float32" in report.reasons[0]
        assert re.search(r"max_abs = \S+, .* under \[int4\] in a file of limits would pass$", report.failure())
    elif fault == "sign":
        assert report.smallest_passing_limits is not None
        limits = Limits(tuple(("fp32", figure, value) for figure, value in report.smallest_passing_limits.items()))
        assert compared(hf, folder, limits=limits).passed
    elif source != "cuda":  # it is found beyond the place alone
        assert {name for name, _ in failed} == {CROSSING}


def test_what_is_not_crossed_is_told_and_without_such_a_place_nothing_is_added(written: Written) -> None:
    model, plain = written("window")[0], written("llama")[0]
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
