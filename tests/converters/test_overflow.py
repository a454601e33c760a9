"""What fp16 cannot hold is found, and computed in float32: the graph's predictions stay those of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from converters.overflow import WideParts, find_wide_parts
from converters.precision import BlockQuantization, Precision
from seap_export.families import model_spec
from seap_export.sources.config import read_json
from seap_export.sources.weights import SafetensorsReader

IDS = np.random.default_rng(1).integers(3, 128, (2, 17))
FP16 = Precision("fp16")
PRUNED: dict[str, Any] = {
    "per_layer_config": {
        0: {"num_attention_heads": 3, "num_key_value_heads": 3, "intermediate_size": 41, "o_proj_bias": True},
        1: {"intermediate_size": 40, "down_proj_bias": True},
    }
}


def scale(**factors: float) -> Callable[[torch.nn.Module], None]:
    """Scales weights of layer 1, or the embedding."""

    def change(model: torch.nn.Module) -> None:
        for name, factor in factors.items():
            where = "model.embed_tokens" if name == "embed_tokens" else f"model.layers.1.{name.replace('__', '.')}"
            model.get_submodule(where).weight.data *= factor

    return change


#: Weights that stay within fp16, and activations that do not: what is wide then.
OVERFLOWS: dict[str, tuple[dict[str, float], WideParts]] = {
    "nothing": ({}, WideParts()),
    "stream": ({"embed_tokens": 1e5}, WideParts(stream=True)),
    "mlp-output": ({"mlp__down_proj": 2e5}, WideParts(True, frozenset({(1, "down_proj")}))),
    "mlp-product": (
        {"mlp__up_proj": 3e3, "mlp__gate_proj": 1e2, "mlp__down_proj": 1e-2},
        WideParts(True, frozenset({(1, "down_proj")})),
    ),
    "attention-output": ({"self_attn__o_proj": 2e5}, WideParts(True, frozenset({(1, "o_proj")}))),
}


def logits_of(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(IDS)).logits.numpy()


def run(session: onnxruntime.InferenceSession) -> np.ndarray:
    feeds: dict[str, Any] = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
    for item in session.get_inputs()[2:]:
        feeds[item.name] = np.zeros((len(IDS), item.shape[1], 0, item.shape[3]), np.float16)
    return session.run(["logits"], feeds)[0]


def found(made: Any) -> WideParts:
    config = read_json(made.source / "config.json")
    return find_wide_parts(config, model_spec(config), SafetensorsReader(made.source))


def relative_error(made: Any) -> float:
    expected = logits_of(made.model)
    difference = run(made.session) - expected
    return float(np.sqrt((difference**2).mean() / (expected**2).mean()))


@pytest.mark.parametrize("dialect", ["fused", "standard"])
@pytest.mark.parametrize("case", OVERFLOWS)
def test_what_overflows_is_wide(case: str, dialect: str, written: Callable[..., Any]) -> None:
    factors, expected = OVERFLOWS[case]
    made = written("llama", precision=FP16, dialect=dialect, change=scale(**factors))
    onnx.checker.check_model(made.folder / "model.onnx", full_check=True)
    assert found(made) == expected
    assert relative_error(made) < 0.02


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_pruned_models_of_every_family(family: str, written: Callable[..., Any]) -> None:
    made = written(family, precision=FP16, change=scale(mlp__down_proj=2e5), **PRUNED)
    assert found(made) == WideParts(True, frozenset({(1, "down_proj")}))
    assert relative_error(made) < 0.02


def test_without_it_the_graph_overflows(written: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converters.onnx_writer.find_wide_parts", lambda *_: WideParts())
    made = written("llama", precision=FP16, change=scale(mlp__down_proj=1e5))
    assert not np.isfinite(run(made.session)).all() or relative_error(made) > 0.1


def test_quantised_weights_in_wide_parts(written: Callable[..., Any]) -> None:
    precision = Precision("fp16", BlockQuantization(8))
    made = written("llama", precision=precision, change=scale(mlp__down_proj=2e5))
    assert np.isfinite(run(made.session)).all()
    assert relative_error(made) < 0.1


def test_only_as_much_as_needed_is_stored_in_float32(written: Callable[..., Any]) -> None:
    sizes = {}
    for case in ("nothing", "mlp-output"):
        made = written("llama", precision=FP16, change=scale(**OVERFLOWS[case][0]), folder=case)
        sizes[case] = (made.folder / "model.onnx.data").stat().st_size
    one_matrix, norms = 2 * 64 * 96, 2 * 7 * 64
    assert one_matrix <= sizes["mlp-output"] - sizes["nothing"] <= one_matrix + norms + 64


def test_other_precisions_ask_for_nothing(written: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converters.onnx_writer.find_wide_parts", lambda *_: pytest.fail("asked"))
    written("llama")
    written("llama", precision=Precision("bf16"), folder="bf16")


def test_a_wide_half_needs_a_wide_stream() -> None:
    with pytest.raises(ValueError, match="stream of float32"):
        WideParts(False, frozenset({(0, "o_proj")}))
