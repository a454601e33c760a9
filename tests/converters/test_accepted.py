"""What formats with a program of their own refuse, and what they say of a model that they accept."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.models import write_micro_model
from support.variations import VARIATIONS, micro_config

from converters.executorch.decoder import CONTEXT as EXECUTORCH_CONTEXT
from converters.executorch.format import ExecutorchFormat
from converters.litert.decoder import CONTEXT as LITERT_CONTEXT
from converters.litert.format import LitertFormat
from seap_export.errors import InputError
from seap_export.families import model_spec

FORMATS = {"executorch": ExecutorchFormat("int8"), "litert": LitertFormat("int8")}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("variation", "named"),
    [
        ("mixtral", "mixture of experts"),
        ("gpt_oss-all", "attention sinks"),
        ("phi3-all", "changes with the length"),
        ("qwen3_5-all", "gated delta net"),
    ],
)
def test_what_it_cannot_compute_is_refused(name: str, variation: str, named: str) -> None:
    refused(name, named, **{**VARIATIONS[variation], **({"sliding_window": None} if variation == "phi3-all" else {})})


def test_executorch_has_no_short_window() -> None:
    refused("executorch", "sliding window", **VARIATIONS["gemma3-all"])


def refused(name: str, named: str, **values: object) -> None:
    reason = FORMATS[name].refusal(model_spec(micro_config(**values)), Path())
    assert reason is not None
    assert named in reason
    assert "use another format" in reason
    assert "\n" not in reason


@pytest.mark.parametrize(("name", "context"), [("executorch", EXECUTORCH_CONTEXT), ("litert", LITERT_CONTEXT)])
def test_a_longer_context_is_cut_and_the_user_told(name: str, context: int) -> None:
    longer = model_spec(micro_config(model_type="llama", max_position_embeddings=4 * context))
    assert str(context) in str(FORMATS[name].remark(longer))
    assert FORMATS[name].remark(model_spec(micro_config(model_type="llama"))) is None


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.needs(name)) for name in FORMATS])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_numbers_that_cannot_be_stored_are_refused_and_nothing_is_left(
    tmp_path: Path, name: str, value: float
) -> None:
    model, out = write_micro_model(tmp_path / "hf", model_type="llama"), tmp_path / name
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][2, 3] = value
    save_file(weights, model / "model.safetensors")
    out.mkdir()
    with pytest.raises(InputError, match=r"up_proj.* holds NaN or infinite"):
        FORMATS[name].write(model, out, lambda layer: None)
    assert list(out.iterdir()) == []
