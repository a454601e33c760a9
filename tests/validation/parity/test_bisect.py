"""Where a graph parts from its model, and what overflows there; sound graphs of all families diverge nowhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import load_external_data_for_model
from support.chosen import RICHEST, in_turn
from support.editing import edit_tensor
from support.execution import ONE_THREAD
from support.formats import write_scaled_graph
from support.models import write_micro_model
from support.product import BlockQuantization, OnnxForm, OnnxFormat, ParitySettings, Precision, Silent
from support.variations import VARIATIONS

from converters.onnx import write_onnx
from seap_export.common.providers import Dtype
from seap_export.model.sources.weights import Difference
from seap_export.pipeline.gate import bisection as gate
from validation.parity.bisect import Bisection, TapError, _Comparison, bisect
from validation.prompts import Case

CASE = Case("prompt 0", ((5, 6, 7, 8, 9),), ((10, 11),))
GAMMA = "model.layers.1.post_attention_layernorm.weight"


def test_what_overflows_is_named_with_the_place_where_it_begins(tmp_path: Path) -> None:
    """Of an fp16 graph that is right, and then has a norm with a weight that is far too large."""
    model, folder = write_micro_model(tmp_path / "m", model_type="llama"), tmp_path / "onnx"
    folder.mkdir()
    write_onnx(model, folder, OnnxForm(Precision("fp16")))
    right = bisect(model, folder, CASE, "prefill", 2, execution=ONE_THREAD)
    assert (right.first, right.overflows, right.taps[0].name) == (None, (), "embed_tokens")
    attention = "layers.1.self_attn"
    named = {"layers.0.self_attn.qkv_proj", "layers.2.mlp.down_proj", "norm", "lm_head"}
    assert named | {f"{attention}.key_cache", f"{attention}.value_cache"} <= {tap.name for tap in right.taps}
    assert all(tap.error is not None and tap.error < 0.3 for tap in right.taps)
    edit_tensor(folder / "model.onnx", GAMMA, lambda gains: np.multiply(gains, np.float16(40000.0), out=gains))
    bisection = bisect(model, folder, CASE, "prefill", 2, execution=ONE_THREAD)
    assert bisection.first is not None
    assert (bisection.first.name, bisection.first.layer) == ("layers.1.post_attention_layernorm", 1)
    kinds = {item.name: item.kind for item in bisection.overflows}
    assert kinds["layers.1.post_attention_layernorm"] == "inf"
    assert not any(name.startswith(("embed_tokens", "layers.0.")) for name in kinds)
    assert all(item.reference_max_abs < 1000 for item in bisection.overflows)
    assert next(tap.error for tap in bisection.taps if tap.name == bisection.first.name) is None


def first_of(places: Sequence[tuple[str, float | None]], dtype: Dtype) -> str | None:
    """The first place that diverges, given the error of each."""
    comparison = _Comparison(SimpleNamespace(layers=()), (), Precision(dtype))  # type: ignore[arg-type]
    for name, error in places:
        wanted = np.ones((1, 4), np.float32)
        comparison._add(name, None, name, wanted, wanted + np.float32(np.nan if error is None else error))
    first = comparison.bisection(CASE, "prefill", in_float=False).first
    return None if first is None else first.name


@pytest.mark.parametrize(
    ("errors", "first"),
    [
        ((1e-5, 3e-4, 2.8e-3, 8e-4, 0.64, 0.12), 4),  # the noise of a large value, and then a wrong weight
        ((1e-5, 3e-4, 2.8e-3, 8e-4, 0.12, 0.64), 2),  # no place is more sudden
        ((1e-5, 3e-4, 2.8e-3, None, 0.64, 0.12), 2),
        ((1e-6, 2e-6, 3e-4, 1e-3, 1e-3, 1e-3), 2),
    ],
)
def test_a_sudden_error_is_no_noise(errors: tuple[float | None, ...], first: int) -> None:
    assert first_of([(str(place), error) for place, error in enumerate(errors)], "fp32") == str(first)


@pytest.mark.parametrize(
    ("dtype", "of_rows", "first"),
    [
        ("fp32", (7e-6, 9e-6), None),
        ("fp32", (7e-6, 4e-5), "layers.1.self_attn.attention"),
        ("fp16", (7e-6, 9e-6), "layers.1.self_attn.attention"),  # whose noise may hide a fault in the stream
    ],
)
def test_noise_that_the_stream_hardly_shows_is_no_fault(
    dtype: Dtype, of_rows: tuple[float, float], first: str | None
) -> None:
    places = [("embed_tokens", 8e-6), ("layers.1.self_attn.attention", 1.2e-4), ("layers.1.self_attn.o_proj", 6e-5)]
    places += [("layers.1.self_attn.residual", error) for error in of_rows]
    assert first_of([*places, ("lm_head", 2e-5)], dtype) == first


@pytest.mark.parametrize(
    ("diverges_in", "wrong", "first"),
    [
        (2, "model.layers.1.mlp.up_proj.weight", "layers.1.mlp.up_proj.weight"),
        (None, "model.layers.1.mlp.up_proj.weight", "layers.1.mlp.up_proj.weight"),
        (0, "model.layers.1.mlp.up_proj.weight", "layers.0.mlp"),
        (0, "model.embed_tokens.weight", "embed_tokens.weight"),
        (2, "model.norm.weight", "layers.2.mlp"),
    ],
)
def test_a_wrong_weight_explains_what_diverges_after_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, diverges_in: int | None, wrong: str, first: str
) -> None:
    tap = None if diverges_in is None else TapError(f"layers.{diverges_in}.mlp", diverges_in, "mlp", 1.0)
    tap_of = Bisection("prompt 0", "prefill", tap, (), ())
    monkeypatch.setattr(gate, "opened_model", nullcontext)
    for name, given in (("prompts_of", []), ("plan_cases", [CASE]), ("bisect", tap_of)):
        monkeypatch.setattr(gate, name, Mock(return_value=given))
    variant: Any = SimpleNamespace(name="a-0.2")
    folder: Any = SimpleNamespace(path=tmp_path, format=OnnxFormat("fp32"))
    found = gate.bisect_variant(variant, folder, ParitySettings(), None, [], [Difference(wrong, "differs")], Silent())
    assert found is not None
    assert found.first is not None
    assert found.first.name == first


_TOKENS = tuple(np.random.default_rng(0).integers(3, 96, 22).tolist())
#: Two rows that pass the 16 tokens of the micro phi3's longrope, one with a step; and calls that pass them.
CASES = (
    Case("batch", (_TOKENS[:18], _TOKENS[3:18]), (_TOKENS[18:], _TOKENS[18:])),
    Case("calls", (_TOKENS[:18],), (_TOKENS[18:],), call_tokens=8),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`folder("gemma2-all")`: the folder of that micro model, made once."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = write_micro_model(tmp_path_factory.mktemp("models") / name, **VARIATIONS[name])
        return made[name]

    return make


FORMS = {
    "fused": OnnxForm(),
    "standard": OnnxForm(dialect="standard"),
    "fused, scaled": OnnxForm(),
    "standard, scaled": OnnxForm(dialect="standard"),
    "4 bits": OnnxForm(Precision("fp32", BlockQuantization(4))),
}


@pytest.mark.parametrize(("name", "form"), in_turn(RICHEST, tuple(FORMS)))
def test_a_sound_graph(name: str, form: str, folder: Callable[[str], Path], tmp_path: Path) -> None:
    write, is_rounded = write_scaled_graph if "scaled" in form else write_onnx, form == "4 bits"
    write(folder(name), tmp_path, FORMS[form])
    for case in CASES[:1] if is_rounded else CASES:
        bisection = bisect(folder(name), tmp_path, case, "decode", 3, in_float=is_rounded, execution=ONE_THREAD)
        assert bisection.first is None
        assert is_rounded or all(tap.error is not None and tap.error < 1e-3 for tap in bisection.taps)


Edit = Callable[[onnx.GraphProto], None]


def _node(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.name == name)


def _input(name: str, index: int, other: str) -> Edit:
    """A node reads something else."""
    return lambda graph: _node(graph, name).input.__setitem__(index, other)


def _number(name: str, factor: float) -> Edit:
    """An initializer is multiplied."""

    def edit(graph: onnx.GraphProto) -> None:
        tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(factor), name))

    return edit


def _attribute(name: str, attribute: str, value: float) -> Edit:
    """A node has another attribute."""

    def edit(graph: onnx.GraphProto) -> None:
        node = _node(graph, name)
        kept = [item for item in node.attribute if item.name != attribute]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(attribute, value)])

    return edit


_ATTENTION, _ROTATED = "layers.1.self_attn.attention", "layers.1.self_attn.query.rotated"
_NORM = "layers.1.post_self_attn_layernorm"
#: The model, the fault, and the place where it shows first.
FAULTS: dict[str, tuple[str, Edit, str]] = {
    "norm after attention": ("gemma3-all", _number(f"model.{_NORM}.weight", 1.1), _NORM),
    "residual left out": (
        "exaone4-window",
        _input("layers.1.mlp.residual", 0, "embed_tokens.output"),
        "layers.1.mlp.residual",
    ),
    "residual multiplier": ("granite-all", _number("float_0.4", 1.1), "layers.0.self_attn.multiplied"),
    "multiplier left out": (
        "granitemoehybrid-all",
        _input("layers.2.input_layernorm", 0, "layers.1.mlp.down_proj.output"),
        "layers.1.mlp.residual",
    ),
    "keys counted from 0 in each call": (
        "hunyuan-all",
        _input("layers.1.self_attn.key.rotated", 1, "first"),
        "layers.1.self_attn.k_norm",
    ),
    "soft cap of scores": ("gemma2-all", _attribute(_ATTENTION, "softcap", 0.0), _ATTENTION),
    "window": ("gemma3-all", _attribute(_ATTENTION, "local_window_size", 6), _ATTENTION),
    "global rotation in a local layer": ("gemma3-all", _input(_ATTENTION, 7, "cos_cache"), _ATTENTION),
    "short factors beyond the switch": ("phi3-all", _input(_ROTATED, 1, "positions.output"), _ATTENTION),
    "logits multiplier": ("granite-all", _number("float_0.5", 1.1), "lm_head"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str, folder: Callable[[str], Path], tmp_path: Path) -> None:
    name, edit, node = FAULTS[fault]
    write_onnx(folder(name), tmp_path, OnnxForm())
    proto = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    load_external_data_for_model(proto, str(tmp_path))
    edit(proto.graph)
    onnx.save(proto, tmp_path / "model.onnx")
    bisection = bisect(folder(name), tmp_path, CASES[0], "decode", 3, execution=ONE_THREAD)
    assert bisection.first is not None
    assert bisection.first.name == node
