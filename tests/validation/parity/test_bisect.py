"""Where a graph parts from its model, and what overflows there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.editing import edit_tensor
from support.execution import ONE_THREAD
from support.models import write_micro_model
from support.product import OnnxForm, Precision

from converters.onnx import write_onnx
from validation.parity.bisect import Bisection, bisect
from validation.prompts import Case

CASE = Case("prompt 0", ((5, 6, 7, 8, 9),), ((10, 11),))
GAMMA = "model.layers.1.post_attention_layernorm.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_micro_model(tmp_path_factory.mktemp("bisect") / "m", model_type="llama")


def bisected(model: Path, folder: Path, factor: float) -> Bisection:
    """Of an fp16 graph, one norm of which has a weight that is so many times as large."""
    write_onnx(model, folder, OnnxForm(Precision("fp16")))
    edit_tensor(folder / "model.onnx", GAMMA, lambda gains: np.multiply(gains, np.float16(factor), out=gains))
    return bisect(model, folder, CASE, "prefill", 2, execution=ONE_THREAD)


def test_what_overflows_is_named_with_the_place_where_it_begins(model: Path, tmp_path: Path) -> None:
    bisection = bisected(model, tmp_path, 40000.0)
    assert bisection.first is not None
    assert (bisection.first.name, bisection.first.layer) == ("layers.1.post_attention_layernorm", 1)
    kinds = {item.name: item.kind for item in bisection.overflows}
    assert kinds["layers.1.post_attention_layernorm"] == "inf"
    assert not any(name.startswith(("embed_tokens", "layers.0.")) for name in kinds)
    assert all(item.reference_max_abs < 1000 for item in bisection.overflows)
    assert next(tap.error for tap in bisection.taps if tap.name == bisection.first.name) is None


def test_a_graph_that_is_right_diverges_nowhere(model: Path, tmp_path: Path) -> None:
    bisection = bisected(model, tmp_path, 1.0)
    assert (bisection.first, bisection.overflows) == (None, ())
    names = [tap.name for tap in bisection.taps]
    assert names[0] == "embed_tokens"
    assert {"layers.0.self_attn.qkv_proj", "layers.2.mlp.down_proj", "norm", "lm_head"} <= set(names)
    assert {"layers.1.self_attn.key_cache", "layers.1.self_attn.value_cache"} <= set(names)
    assert all(tap.error is not None and tap.error < 0.3 for tap in bisection.taps)
