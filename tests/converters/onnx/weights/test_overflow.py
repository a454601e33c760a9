"""What overflows in fp16 is found and scaled: the graph's predictions stay those of torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.editing import edit_weights
from support.models import write_micro_model
from support.product import (
    PlainReader,
    Precision,
    SafetensorsReader,
    length_buckets,
    router_weights,
)

from converters.onnx.weights import overflow
from converters.onnx.weights.overflow import find_scaling
from converters.onnx.weights.scaling import Scaling
from seap_export.common.json_file import read_json
from seap_export.errors import InputError
from seap_export.model.families import Experts, model_spec
from seap_export.model.layers.sublayers.experts import expert_outputs
from seap_export.model.layers.sublayers.operands import PRODUCT

IDS = np.random.default_rng(1).integers(3, 128, (2, 17))
FP16 = Precision("fp16")


def scale(**factors: float) -> Callable[[torch.nn.Module], None]:
    """Scales weights of layer 1, or the embedding."""

    def change(model: torch.nn.Module) -> None:
        for name, factor in factors.items():
            where = "model.embed_tokens" if name == "embed_tokens" else f"model.layers.1.{name.replace('__', '.')}"
            model.get_submodule(where).weight.data *= factor

    return change


def down(exponent: int) -> dict[str, int]:
    return {"model.layers.1.mlp.down_proj": exponent}


#: Weights that stay within fp16, and activations that do not; the scaling that this takes.
OVERFLOWS: dict[str, tuple[dict[str, float], Scaling]] = {
    "nothing": ({}, Scaling()),
    "stream": ({"embed_tokens": 1e5}, Scaling(3)),
    "mlp-output": ({"mlp__down_proj": 2e5}, Scaling(6)),
    "mlp-product": ({"mlp__up_proj": 3e3, "mlp__gate_proj": 1e2, "mlp__down_proj": 1e-3}, Scaling(inputs=down(8))),
    "attention-output": ({"self_attn__o_proj": 2e5}, Scaling(6)),
}


def scaling_in(folder: Path, **config: Any) -> Scaling:
    """That of a model folder, whose config says this besides."""
    values = read_json(folder / "config.json")
    spec = model_spec(values)
    return find_scaling(values | config, spec, PlainReader(SafetensorsReader(folder), spec), FP16)


def relative_error(made: Any) -> float:
    expected = made.truth(IDS)
    difference = made.run(IDS, np.ones_like(IDS))[0] - expected
    return float(np.sqrt((difference**2).mean() / (expected**2).mean()))


@pytest.mark.parametrize(
    ("case", "dialect"), zip(OVERFLOWS, ("fused", "standard", "fused", "standard", "fused"), strict=True)
)
def test_what_overflows_is_scaled(case: str, dialect: str, written: Callable[..., Any]) -> None:
    factors, expected = OVERFLOWS[case]
    made = written("llama", precision=FP16, dialect=dialect, change=scale(**factors))
    onnx.checker.check_model(made.folder / "model.onnx", full_check=True)
    assert scaling_in(made.source) == expected
    assert relative_error(made) < 0.02


@pytest.mark.parametrize(("bos", "length"), [(1, 96), (None, 7), (1, 7)])
def test_every_token_is_tried_alone_and_in_a_text_behind_bos(
    bos: int | None, length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[list[int]] = []

    def seen(sequences: Any, *others: Any) -> Any:
        texts.extend(sequences)
        return length_buckets(sequences, *others)

    folder = write_micro_model(tmp_path / "m", model_type="llama", vocab_size=128, max_position_embeddings=length)
    monkeypatch.setattr(overflow, "length_buckets", seen)
    whole = scaling_in(folder, bos_token_id=bos)
    alone, others = [ids[0] for ids in texts if len(ids) == 1], [ids for ids in texts if len(ids) > 1]
    assert sorted(alone) == list(range(128))
    start = [] if bos is None else [bos]
    assert all(ids[: len(start)] == start and len(ids) <= length for ids in others)
    assert sorted(token for ids in others for token in ids[len(start) :]) == list(range(128))
    monkeypatch.setattr(overflow, "_MOST_BYTES", 4 * 64 * 100)
    assert (scaling_in(folder, bos_token_id=bos), len(texts)) == (whole, 2 * len(alone + others))


@pytest.mark.parametrize("token", [5, 4095])
def test_a_single_token_that_overflows_is_found(token: int, tmp_path: Path) -> None:
    folder = write_micro_model(tmp_path / "m", model_type="llama", vocab_size=4096)
    assert scaling_in(folder) == Scaling()
    edit_weights(folder, lambda tensors: tensors["model.embed_tokens.weight"][token].mul_(1e4))
    assert scaling_in(folder).stream >= 1


@pytest.mark.parametrize(
    ("family", "factors", "what"),
    [
        ("qwen3", {"q_norm": 50.0, "k_norm": 200.0}, r"scores before model\.layers\.0\.self_attn\.o_proj"),
        ("qwen3", {"k_norm": 1e5}, r"keys before model\.layers\.0\.self_attn\.o_proj"),
        ("lfm2", {"conv.in_proj": 300.0}, r"gated inputs before model\.layers\.0\.conv\.out_proj"),
        ("llama", {"post_attention_layernorm": 3e4}, r"norm before model\.layers\.0\.mlp\.down_proj"),
        ("llama", {"lm_head": 1e5}, "a logit"),
        ("llama", {"1.self_attn.v_proj": 1e5}, r"model\.layers\.1\.self_attn\.v_proj"),
        ("llama", {"1.mlp.gate_proj": 1e5}, r"model\.layers\.1\.mlp\.gate_proj"),
        ("llama", {"1.mlp.down_proj": 1e7}, "the residual stream"),
        ("llama", {"1.mlp.up_proj": 1e9, "1.mlp.down_proj": 1e-9}, r"the input of model\.layers\.1\.mlp\.down_proj"),
        ("arcee", {"layers.1.mlp.up_proj": 100.0}, r"the input of model\.layers\.1\.mlp\.down_proj"),
    ],
)
def test_what_no_scaling_prevents_is_refused(
    family: str, factors: dict[str, float], what: str, tmp_path: Path
) -> None:
    folder = write_micro_model(tmp_path / "m", model_type=family)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for part, factor in factors.items():
            for name in tensors:
                if part in name:
                    tensors[name] *= factor

    scaling_in(folder)
    edit_weights(folder, change)
    with pytest.raises(InputError, match=f"{what} reaches"):
        scaling_in(folder)


def test_experts_are_looked_at_before_the_router_weights_them(tmp_path: Path) -> None:
    folder = write_micro_model(tmp_path / "m", model_type="mixtral")
    spec = model_spec(read_json(folder / "config.json"))
    tensors = PlainReader(SafetensorsReader(folder), spec).read(spec.layer_tensors(0))
    (experts,) = (one for one in spec.layers[0].sublayers if isinstance(one, Experts))
    layer, x = overflow._WatchedLayer(spec, 0, tensors, experts.output), torch.randn(20, spec.hidden_size)
    (batch,) = length_buckets([list(range(20))], 20)
    layer.channels_and_product(experts.output, x, batch)
    peak = layer.peaks[PRODUCT]
    outputs = expert_outputs(layer, experts, layer.read(experts.output, x))
    reached = router_weights(layer, experts, x) > 0
    assert peak == pytest.approx(outputs[reached].abs().max().item(), rel=0.01)


@pytest.mark.parametrize("family", ["gemma3_text", "exaone4"])
def test_a_norm_after_a_sublayer_scales_the_product_alone(family: str, tmp_path: Path) -> None:
    folder = write_micro_model(tmp_path / "m", model_type=family)
    name = "model.layers.1.self_attn.o_proj"
    edit_weights(folder, lambda tensors: tensors[f"{name}.weight"].mul_(1e5))
    scaling = scaling_in(folder)
    assert scaling == Scaling(outputs={name: scaling.outputs[name]})


def test_a_tied_head_whose_input_overflows_is_refused(written: Callable[..., Any], tmp_path: Path) -> None:
    """The factor that the embedding lacks is in the last norm, where the head does not see it."""

    def change(model: torch.nn.Module) -> None:
        scale(embed_tokens=1e5)(model)
        model.get_submodule("model.norm").weight.data *= 3000

    says = (
        r"^fp16 cannot hold this model: the last norm reaches [\d.e+]+; use --precision bf16 on CUDA, or fp32 on the"
    )
    with pytest.raises(InputError, match=says):
        written("llama", precision=FP16, change=change, tie_word_embeddings=True)
    assert list((tmp_path / "onnx").iterdir()) == []
    written("llama", precision=FP16, change=change, folder="untied")
