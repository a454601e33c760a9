"""The gate on real graphs of micro models: sound graphs pass, and what is planted in them does not."""

from __future__ import annotations

import json
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
from support.chosen import VARIED
from support.editing import edit_tensor, edit_weights
from support.execution import ONE_THREAD
from support.models import skip_unless_loaded, write_micro_model
from support.product import (
    BlockQuantization,
    OnnxForm,
    Precision,
    PrecisionName,
    choose_precision,
    convert_folder,
    weight_differences,
)
from support.variations import VARIATIONS

from converters.onnx.form import read_form
from converters.onnx.graph.dialects import POISON
from seap_export.common.json_file import read_json
from seap_export.errors import ArtifactError, ParityFailure
from seap_export.model.families import family_of_model_type, model_spec
from validation.parity.filled import filled_cases
from validation.parity.origin import Origin
from validation.parity.profiles import Limits
from validation.parity.report import ParityReport
from validation.parity.run import plan_cases, run_parity

PROMPTS = ("the cat sat on the mat and the dog sat on the cat", "a dog", "the mat and a cat sat on a dog")
_UP_PROJ, _EXTRA = (f"model.layers.{layer}.mlp.up_proj.weight" for layer in (1, 3))
PLACE = 200  # where models begin to compute differently, above the 128 tokens that every long prompt has
CROSSING = f"filled cache of {PLACE}"
LENGTHS: dict[str, Any] = {"max_position_embeddings": 320}
ROPE: dict[str, Any] = {"rope_theta": 10000.0, "original_max_position_embeddings": PLACE}
FACTORS: dict[str, Any] = {"rope_type": "longrope", "short_factor": [1.0, 1.1] * 4, "long_factor": [4.0, 4.5] * 4}
WINDOW: dict[str, Any] = {"model_type": "mistral", "sliding_window": PLACE, **LENGTHS}
LONGROPE: dict[str, Any] = {
    **{"model_type": "phi3", "sliding_window": None, "rope_parameters": {**ROPE, **FACTORS}},
    **{"original_max_position_embeddings": PLACE, **LENGTHS},
}
SCALED: dict[str, Any] = {
    **{"model_type": "ministral3", "rope_parameters": {**ROPE, "llama_4_scaling_beta": 0.5}, **LENGTHS}
}
#: Head norms and, with this width, products of gate and up in one node.
WIDE = {**VARIATIONS["qwen3"], "intermediate_size": 96, "hidden_size": 64}


def for_cuda(precision: PrecisionName) -> OnnxForm:
    return OnnxForm(choose_precision(precision, "cuda"), "fused", "last", "cuda")


#: A pruned model or the values of one, and the form of its graph. The CPU runs graphs for CUDA, too.
SOURCES: dict[str, tuple[str | dict[str, Any], OnnxForm]] = {
    "llama": ("Llama", OnnxForm()),
    "int4": ("Llama", OnnxForm(choose_precision("int4"))),
    "int4 with zero points": ("Llama", OnnxForm(choose_precision("int4", symmetric=False))),
    "cuda": (WIDE, for_cuda("fp16")),
    "cuda, int4": (WIDE, for_cuda("int4")),
    "window": (WINDOW, OnnxForm()),
    "window, standard": (WINDOW, OnnxForm(dialect="standard")),
    "longrope": (LONGROPE, OnnxForm()),
    "longrope, fp16": (LONGROPE, OnnxForm(Precision("fp16"))),
    "scaled": (SCALED, OnnxForm()),
}
Written = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def written(micro_hf: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Written:
    """`written("llama")`: the folder of that model, and of its graph."""

    @cache
    def write(name: str) -> tuple[Path, Path]:
        values, form = SOURCES[name]
        folder = tmp_path_factory.mktemp("graph")
        hf = micro_hf(values) if isinstance(values, str) else write_micro_model(folder / "hf", **values)
        (folder / "onnx").mkdir()
        convert_folder(hf, folder / "onnx", form)
        return hf, folder / "onnx"

    return write


def compared(hf: Path, folder: Path, prompts: Any = PROMPTS, **options: Any) -> ParityReport:
    return run_parity(hf, folder, prompts, execution=ONE_THREAD, **{"decode_steps": 4, "long_tokens": 64, **options})


@pytest.mark.parametrize("name", SOURCES)
def test_sound_graphs_pass(written: Written, name: str) -> None:
    """Where a model computes differently beyond the longest text, a filled cache crosses the place."""
    hf, folder = written(name)
    report = compared(hf, folder)
    assert (report.reasons, report.remarks) == ((), ())
    assert [*weight_differences(hf, folder, read_form(folder / "model.onnx"))] == []
    crossing = [stage for stage in report.stages if stage.prompts.name == CROSSING]
    assert [stage.stage for stage in crossing] == (["prefill", "decode"] if "max_p" in str(SOURCES[name][0]) else [])
    assert all(stage.figures.tokens for stage in crossing)


def test_a_rounded_model_is_near_the_model_that_was_rounded(written: Written, tmp_path: Path) -> None:
    hf, graph = written("llama")
    other = Path(shutil.copytree(hf, tmp_path / "other"))
    edit_weights(other, lambda tensors: tensors["lm_head.weight"].neg_())
    good, bad = (compared(hf, graph, origin=Origin(folder, BlockQuantization(8))) for folder in (hf, other))
    assert good.passed
    assert good.to_json()["rounding"] == {"kl_nats": 0.0, "limit_nats": 0.05}
    assert (bad.passed, bad.hint) == (False, "no limit would pass")
    assert bad.rounding is not None
    assert bad.rounding.kl > bad.rounding.limit > 0.0
    assert "KL from the model that was rounded" in bad.failure()


@pytest.mark.parametrize("case", [*VARIED, "Qwen2", "Mistral standard", "gemma4-all standard"])
def test_a_model_passes(micro_hf: Callable[[str], Path], tmp_path: Path, case: str) -> None:
    """Two are pruned; the last has a layer that reads the cache of another.

    The long prompt and its steps pass the tokens at which the micro phi3's longrope switches.
    """
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


@pytest.mark.parametrize(
    ("name", "logits", "family"),
    [("int8", "all", "Llama"), ("int4", "last", "Qwen3"), ("w8a8", "last", "Mistral"), ("w4a8", "all", "Qwen2")],
)
def test_quantised_weights_are_compared_in_float32_too(
    micro_hf: Callable[[str], Path], tmp_path: Path, family: str, name: Any, logits: Any
) -> None:
    form = OnnxForm(choose_precision(name, block_size=32), logits=logits)
    convert_folder(micro_hf(family), tmp_path, form)
    report = run_parity(micro_hf(family), tmp_path, PROMPTS, execution=ONE_THREAD)
    assert report.passed, report.reasons
    assert report.subject.form == form.to_json()
    assert report.limits.keys() == {"max_abs", "cache_error", "mean_kl"}
    assert (report.limits["max_abs"], report.limits["cache_error"]) == (1e-3, 1e-3)
    # torch, rounding activations alike, is as far off
    assert 1e-2 <= report.limits["mean_kl"] <= max(1e-2, 12 * (report.noise_kl or 0.0))
    exact = [stage for stage in report.stages if stage.case.endswith(", in float32")]
    assert {stage.prompts.name for stage in exact} == {"batch of 3", "random tokens", "long prompt"}
    assert {stage.figures.tokens // stage.rows for stage in exact if stage.stage == "decode"} == {2}
    rounded = {stage.case for stage in report.stages if stage not in exact}
    assert rounded == {*(f"prompt {index}" for index in range(len(PROMPTS))), "batch of 3", "one token", "generate"}
    assert all(stage.figures.max_abs < 1e-4 for stage in exact if stage.figures.max_abs is not None)
    tokens = {stage.figures.tokens for stage in report.stages if (stage.case, stage.stage) == ("prompt 0", "prefill")}
    assert tokens == {1} if logits == "last" else tokens.isdisjoint({1})
    assert not compared(micro_hf(family), tmp_path, limits=Limits(((name, "mean_kl", 1e-9),))).passed


class Graph(NamedTuple):
    """A copy of a graph to plant a fault in."""

    path: Path
    proto: onnx.GraphProto

    def node(self, name: str) -> onnx.NodeProto:
        return next(each for each in self.proto.node if each.name == name)

    def change(self, name: str, change: Callable[[np.ndarray], object]) -> None:
        """An initializer that is not in the data file."""
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
    """Of one weight."""

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


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_stopped(written: Written, fault: str, tmp_path: Path) -> None:
    source, plant = FAULTS[fault]
    hf, sound = written(source)
    folder = Path(shutil.copytree(sound, tmp_path / "onnx"))
    proto = onnx.load(folder / "model.onnx", load_external_data=False)
    plant(Graph(folder / "model.onnx", proto.graph))
    onnx.save(proto, folder / "model.onnx")
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


def test_the_report_is_the_same_again_and_holds_no_paths(written: Written) -> None:
    """A single short prompt is enough."""
    hf, folder = written("llama")
    first, second = (compared(hf, folder, ["cat"], decode_steps=1) for _ in range(2))
    assert first.passed, first.reasons
    assert [stage.rows for stage in first.stages if stage.case == "batch of 3"] == [3, 3]
    assert first.to_json() == second.to_json()
    assert str(hf.parent) not in json.dumps(first.to_json())


def _other_up_proj(weights: dict[str, Any], name: str = _UP_PROJ, rows: int | None = None) -> None:
    weights[name] = weights[_UP_PROJ][:rows].clone()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weights: weights.pop(_UP_PROJ), f"1 missing keys in its weights, such as {_UP_PROJ}"),
        (partial(_other_up_proj, rows=-1), f"1 mismatched keys in its weights, such as {_UP_PROJ}"),
        (partial(_other_up_proj, name=_EXTRA), f"1 unexpected keys in its weights, such as {_EXTRA}"),
        (None, "its tokenizer cannot be loaded"),
    ],
)
def test_a_damaged_model_is_refused(
    written: Written, tmp_path: Path, damage: Any, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    hf, onnx_folder = written("llama")
    damaged = Path(shutil.copytree(hf, tmp_path / "hf"))
    if damage is None:
        (damaged / "tokenizer.json").write_text('{"model": 1}', "utf-8")
    else:
        edit_weights(damaged, damage)
    with pytest.raises(ArtifactError, match=re.escape(message)):
        run_parity(damaged, onnx_folder, PROMPTS)
    assert capfd.readouterr() == ("", "")
