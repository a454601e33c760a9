"""Which whole model beats a variant: smaller, faster and nearer, as far as that was measured."""

from __future__ import annotations

from typing import Any

import pytest

from seap_export.pipeline.gate.whole import beaten_by


def figures(kl: float | None, speedup: float | None) -> dict[str, Any]:
    quality = None if kl is None else {"divergence": {"onnx": {"mean_kl_nats": kl}}, "folder": "onnx"}
    speed = None if speedup is None else {"variant": [{"decode_speedup": speedup}], "folder": "onnx"}
    return {"quality": quality, "speed": speed, "task": "a"}


def variant(size: int = 100, kl: float | None = 0.2, speedup: float | None = 1.5, left: int = 80) -> dict[str, Any]:
    formats = {"onnx": {"precision": "int8"}}
    shapes = {"num_parameters": left, "dense_parameters": 100}
    return {**figures(kl, speedup), **shapes, "bytes": {"hf": 400, "onnx": size}, "formats": formats}


def row(size: int, kl: float | None = 0.1, speedup: float | None = 1.6, **changes: Any) -> dict[str, Any]:
    return {**figures(kl, speedup), "bytes": size, "beside": "int8", "refusal": "", **changes}


@pytest.mark.parametrize(
    ("better", "beats"),
    [
        (row(99), True),
        (row(100), False),
        (row(99, kl=0.2), False),
        (row(99, speedup=1.5), False),
        (row(99, kl=None), True),
        (row(99, speedup=None), True),
        (row(99, kl=None, speedup=None), False),
        (row(99, task="b"), False),
        (row(99, beside="fp32"), False),
        (row(99, refusal="no"), False),
    ],
)
def test_it_must_be_better_in_all_that_was_measured(better: dict[str, Any], beats: bool) -> None:
    assert beaten_by("a-0.2", {"a-0.2": variant()}, {"whole": better}) == ("whole" if beats else None)


def test_the_nearest_of_several_is_named() -> None:
    rows = {"far": row(50, kl=0.15), "near": row(99, kl=0.05)}
    assert beaten_by("a-0.2", {"a-0.2": variant()}, rows) == "near"
    assert beaten_by("a-0.2", {"a-0.2": variant(kl=None)}, {"far": row(50), "near": row(99)}) is not None


def test_a_variant_of_ratio_0_is_a_whole_model() -> None:
    variants = {"a-0.2": variant(), "a-0": variant(90, 0.1, 1.6, left=100)}
    assert beaten_by("a-0.2", variants, {}) == "a-0"
    assert beaten_by("a-0", variants, {}) is None
    assert beaten_by("a-0.2", {**variants, "a-0": variant(90, 0.1, 1.6, left=99)}, {}) is None


def test_nothing_beats_what_was_not_measured() -> None:
    assert beaten_by("a-0.2", {"a-0.2": variant(kl=None, speedup=None)}, {"whole": row(1)}) is None
