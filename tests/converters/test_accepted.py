"""What formats with a program of their own refuse, and what they say of a model that they accept."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.variations import VARIATIONS, micro_config

from converters.executorch.decoder import CONTEXT as EXECUTORCH_CONTEXT
from converters.executorch.format import ExecutorchFormat
from converters.litert.decoder import CONTEXT as LITERT_CONTEXT
from converters.litert.format import LitertFormat
from seap_export.model.families import model_spec

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
