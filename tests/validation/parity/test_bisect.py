"""Where a graph parts from its model, and what overflows there; sound graphs of all families diverge nowhere."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
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


#: Places of a layer; elsewhere, only their order counts.
STREAM = (
    "embed_tokens",
    *(f"layers.1.self_attn.{part}" for part in ("attention", "o_proj", *["residual"] * 2)),
    "head",
)
SUDDEN = ("0", "1", "2", "3", "4", "5")


@pytest.mark.parametrize(
    ("dtype", "names", "errors", "first"),
    [
        ("fp32", SUDDEN, (1e-5, 3e-4, 2.8e-3, 8e-4, 0.64, 0.12), 4),  # the noise of a large value, and a wrong weight
        ("fp32", SUDDEN, (1e-5, 3e-4, 2.8e-3, 8e-4, 0.12, 0.64), 2),  # no place is more sudden
        ("fp32", SUDDEN, (1e-5, 3e-4, 2.8e-3, np.nan, 0.64, 0.12), 2),
        ("fp32", SUDDEN, (1e-6, 2e-6, 3e-4, 1e-3, 1e-3, 1e-3), 2),
        ("fp32", STREAM, (8e-6, 1.2e-4, 6e-5, 7e-6, 9e-6, 2e-5), None),  # noise that the stream hardly shows
        ("fp32", STREAM, (8e-6, 1.2e-4, 6e-5, 7e-6, 4e-5, 2e-5), 1),
        ("fp16", STREAM, (8e-6, 1.2e-4, 6e-5, 7e-6, 9e-6, 2e-5), 1),  # whose noise may hide a fault in the stream
    ],
)
def test_a_sudden_error_is_no_noise(
    dtype: Dtype, names: tuple[str, ...], errors: tuple[float, ...], first: int | None
) -> None:
    comparison = _Comparison(SimpleNamespace(layers=()), (), Precision(dtype))  # type: ignore[arg-type]
    wanted = np.ones((1, 4), np.float32)
    for name, error in zip(names, errors, strict=True):
        comparison._add(name, None, name, wanted, wanted + np.float32(error))
    tap = comparison.bisection(CASE, "prefill", in_float=False).first
    assert (tap and tap.name) == (None if first is None else names[first])


UP = "layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("diverges_in", "wrong", "first"),
    [(2, UP, UP), (None, UP, UP), (0, UP, "layers.0.mlp"), (0, *["embed_tokens.weight"] * 2),
     (2, "norm.weight", "layers.2.mlp")],
)  # fmt: skip
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
    differences = [Difference(f"model.{wrong}", "differs")]
    found = gate.bisect_variant(variant, folder, ParitySettings(), None, [], differences, Silent())
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
    return cache(lambda name: write_micro_model(tmp_path_factory.mktemp("models") / name, **VARIATIONS[name]))


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


Edit = Callable[[dict[str, onnx.NodeProto], dict[str, onnx.TensorProto]], None]


def _reads(name: str, index: int, other: str) -> Edit:
    return lambda nodes, tensors: nodes[name].input.__setitem__(index, other)


def _multiplied(name: str, factor: float) -> Edit:
    def edit(nodes: dict[str, onnx.NodeProto], tensors: dict[str, onnx.TensorProto]) -> None:
        values = onnx.numpy_helper.to_array(tensors[name]) * np.float32(factor)
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(values, name))

    return edit


def _attribute(name: str, value: float) -> Edit:
    def edit(nodes: dict[str, onnx.NodeProto], tensors: dict[str, onnx.TensorProto]) -> None:
        node = nodes[_ATTENTION]
        kept = [item for item in node.attribute if item.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])

    return edit


_ATTENTION, _NORM = "layers.1.self_attn.attention", "layers.1.post_self_attn_layernorm"
_RESIDUAL, _DOWN = "layers.1.mlp.residual", "layers.1.mlp.down_proj.output"
_KEY, _QUERY, _KEY_NORM = (f"layers.1.self_attn.{part}" for part in ("key.rotated", "query.rotated", "k_norm"))
#: The model, the fault, and the place where it shows first.
FAULTS: dict[str, tuple[str, Edit, str]] = {
    "norm after attention": ("gemma3-all", _multiplied(f"model.{_NORM}.weight", 1.1), _NORM),
    "no residual": ("exaone4-window", _reads(_RESIDUAL, 0, "embed_tokens.output"), _RESIDUAL),
    "residual multiplier": ("granite-all", _multiplied("float_0.4", 1.1), "layers.0.self_attn.multiplied"),
    "no multiplier": ("granitemoehybrid-all", _reads("layers.2.input_layernorm", 0, _DOWN), _RESIDUAL),
    "keys counted from 0 in each call": ("hunyuan-all", _reads(_KEY, 1, "first"), _KEY_NORM),
    "soft cap of scores": ("gemma2-all", _attribute("softcap", 0.0), _ATTENTION),
    "window": ("gemma3-all", _attribute("local_window_size", 6), _ATTENTION),
    "global rotation in a local layer": ("gemma3-all", _reads(_ATTENTION, 7, "cos_cache"), _ATTENTION),
    "short factors beyond the switch": ("phi3-all", _reads(_QUERY, 1, "positions.output"), _ATTENTION),
    "logits multiplier": ("granite-all", _multiplied("float_0.5", 1.1), "lm_head"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str, folder: Callable[[str], Path], tmp_path: Path) -> None:
    name, edit, node = FAULTS[fault]
    write_onnx(folder(name), tmp_path, OnnxForm())
    proto = onnx.load(tmp_path / "model.onnx")
    edit({node.name: node for node in proto.graph.node}, {tensor.name: tensor for tensor in proto.graph.initializer})
    onnx.save(proto, tmp_path / "model.onnx")
    bisection = bisect(folder(name), tmp_path, CASES[0], "decode", 3, execution=ONE_THREAD)
    assert bisection.first is not None
    assert bisection.first.name == node
