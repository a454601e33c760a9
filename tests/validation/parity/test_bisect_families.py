"""Bisection over the micro models of all families: sound graphs diverge nowhere, a fault is named by its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import load_external_data_for_model
from support.chosen import RICHEST, in_turn
from support.execution import ONE_THREAD
from support.formats import write_scaled_graph
from support.models import write_micro_model
from support.product import BlockQuantization, OnnxForm, Precision
from support.variations import VARIATIONS

from converters.onnx import write_onnx
from validation.parity.bisect import bisect
from validation.prompts import Case

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
