"""What reports say of whole models beside variants."""

from __future__ import annotations

from typing import Any

import pytest

from validation.reports.whole import beaten

COMMAND = "seap-export export m --ratio 0"


def whole(divergence: dict[str, Any], speed: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "task": "gsm8k",
        "precision": "int4",
        "beside": "fp32",
        "options": {},
        "command": COMMAND,
        "refusal": "",
        "bytes": 86_400_000,
        "quality": {"divergence": {"onnx": {**divergence, "mean_kl_nats": 0.032}}, "folder": "onnx", "runtime": "x"},
        "speed": speed,
        **changes,
    }


@pytest.fixture
def report(passing: dict[str, Any]) -> dict[str, Any]:
    """The passing report with a whole model that beats one of its variants."""
    name, variant = next((name, one) for name, one in passing["variants"].items() if one["speed"] and one["quality"])
    (divergence, *_) = variant["quality"]["divergence"].values()
    cell = variant["speed"]["variant"][0] | {"decode_speedup": 3.25, "decode_ms_per_token": 8.0, "prefill_ms": 40.0}
    speed = {**variant["speed"], "variant": [cell]}
    variant |= {"task": "gsm8k", "beaten_by": "best"}
    row = whole(divergence, speed)
    return {**passing, "variants": {name: variant}, "whole": {"best": row, "none": whole({}, speed, refusal="no")}}


def test_a_beaten_variant_is_compared_in_words(report: dict[str, Any]) -> None:
    (one,) = beaten(report)
    assert (one.by, one.command) == ("best", COMMAND)
    assert one.words.startswith("beaten by the whole model in int4, which is smaller (86.4 MB instead of ")
    assert "faster (3.25× the dense model's decode speed instead of " in one.words
    assert " and nearer to the original (KL 0.032 instead of " in one.words
