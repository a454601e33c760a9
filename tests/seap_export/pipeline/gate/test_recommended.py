"""Which file is recommended, and which whole model beats a variant: one rule, from what was measured."""

from __future__ import annotations

from typing import Any

import pytest
from support.product import FirstToken

from seap_export.pipeline.gate.recommended import Limits, recommended
from seap_export.pipeline.gate.whole import beaten_by

MB = 1_000_000


def divergence(kl: float, error: float | None = 0.001, texts: list[list[float]] | None = None) -> dict[str, Any]:
    figures = {f"{name}_kl_nats": kl for name in ("mean", "median", "p99", "p999", "max")}
    return {**figures, "mean_kl_nats_stderr": error, **({} if texts is None else {"kl_nats_by_text": texts})}


def variant(
    size: int = 50, kl: float | None = 0.1, error: float | None = 0.001, left: int = 80, **changes: Any
) -> dict[str, Any]:
    """A variant with one file, of 20 % fewer parameters unless `left` says more."""
    return {
        "task": "a",
        "num_parameters": left,
        "dense_parameters": 100,
        "formats": {"onnx": {"precision": "int8"}},
        "bytes": {"hf": 400 * MB, "onnx": size * MB},
        "quality": None if kl is None else {"divergence": {"onnx": divergence(kl, error)}},
        "speed": None,
        **changes,
    }


def whole(size: int, kl: float, precision: str = "int4", **changes: Any) -> dict[str, Any]:
    quality = {"divergence": {"onnx": divergence(kl)}}
    row = {"task": "a", "precision": precision, "bytes": size * MB, "refusal": "", "quality": quality, "speed": None}
    return {**row, **changes}


WHOLE = {"int4": whole(90, 0.037), "int8": whole(157, 0.0056, "int8")}


def of_a(
    variants: dict[str, Any], rows: dict[str, Any], limits: Limits | None = None, failed: Any = ()
) -> dict[str, Any]:
    return recommended(variants, rows, limits or Limits(), failed)["a"]


@pytest.mark.parametrize(
    ("variants", "limits", "file", "rule"),
    [
        ({"a-0.2": variant(134, 0.13)}, Limits(), "int4", "as near as int4"),  # beaten by it
        ({"a-0.2": variant(60, 0.13)}, Limits(), "int4", "as near as int4"),  # clearly further away
        ({"a-0.2": variant(60, 0.039)}, Limits(), "a-0.2/onnx", "as near as int4"),  # within two errors
        ({"a-0.2": variant(60, 0.03), "a-0.5": variant(40, 0.037)}, Limits(), "a-0.5/onnx", "as near as int4"),
        ({"a-0.2": variant(60, 0.039, error=None)}, Limits(), "int4", "as near as int4"),  # nothing says how close
        ({"a-0.2": variant(60, 0.13)}, Limits(max_kl=0.2), "a-0.2/onnx", "limits"),
        ({"a-0.2": variant(60, 0.13)}, Limits(max_kl=0.01), "int8", "limits"),
        ({"a-0.2": variant(60, 0.13)}, Limits(max_kl=0.001), None, "limits"),
        ({"a-0.2": variant(60, 0.13), "a-0.5": variant(40, 0.3)}, Limits(bytes=70 * MB), "a-0.2/onnx", "nearest"),
        ({"a-0.2": variant(60, 0.13)}, Limits(bytes=50 * MB), None, "limits"),
        ({"a-0.2": variant(60, None)}, Limits(), "int4", "as near as int4"),
    ],
)
def test_the_rule(variants: dict[str, Any], limits: Limits, file: str | None, rule: str) -> None:
    found = of_a(variants, WHOLE, limits)
    assert (found["file"], found["rule"]) == (file, rule)


def test_without_the_whole_model_the_nearest_is_recommended_and_the_smallest_named() -> None:
    found = of_a({"a-0.2": variant(60, 0.13), "a-0.5": variant(40, 0.3), "a-0.6": variant(50, 0.4)}, {})
    assert (found["file"], found["rule"], found["beside"]) == ("a-0.2/onnx", "nearest", None)
    assert (found["nearest"], found["smallest"]) == ("a-0.2/onnx", "a-0.5/onnx")
    assert [file["name"] for file in found["files"] if file["beaten"]] == ["a-0.6/onnx"]


def test_a_difference_is_paired_by_text() -> None:
    """Each text differs by as much, so that the error of the difference is far below those of the means."""
    texts = [[1.0, 10], [3.0, 10], [9.0, 10], [2.0, 10]]
    more = [[total + 0.2, count] for total, count in texts]
    rows = {"int4": whole(90, 0.375, quality={"divergence": {"onnx": divergence(0.375, 0.18, texts)}})}
    further = variant(60, quality={"divergence": {"onnx": divergence(0.395, 0.18, more)}})
    assert of_a({"a-0.2": further}, rows)["file"] == "int4"
    unpaired = variant(60, quality={"divergence": {"onnx": divergence(0.395, 0.18)}})
    assert of_a({"a-0.2": unpaired}, rows)["file"] == "a-0.2/onnx"


def test_what_failed_a_check_is_no_candidate() -> None:
    variants = {"a-0.2": variant(60, 0.03)}
    assert of_a(variants, WHOLE)["file"] == "a-0.2/onnx"
    assert of_a(variants, WHOLE, failed=[("a-0.2", "onnx")])["file"] == "int4"
    assert of_a(variants, WHOLE, failed=[("a-0.2", "gguf")])["file"] == "a-0.2/onnx"


def test_each_folder_is_a_candidate_and_one_without_figures_is_named() -> None:
    formats = {"onnx": {"precision": "int8"}, "gguf": {"precision": "q4_0"}, "mlx": {"precision": "4bit"}}
    sizes = {"hf": 400 * MB, "onnx": 80 * MB, "gguf": 55 * MB, "mlx": 50 * MB}
    quality = {"divergence": {"onnx": divergence(0.02), "gguf in llama.cpp": divergence(0.03)}}
    found = of_a({"a-0.2": variant(formats=formats, bytes=sizes, quality=quality)}, WHOLE)
    assert found["file"] == "a-0.2/gguf"
    assert found["not_measured"] == ["a-0.2/mlx"]
    assert found["words"].endswith("Not measured: a-0.2/mlx.")


def test_a_variant_of_ratio_0_is_the_whole_model() -> None:
    own = variant(90, 0.037, left=100, formats={"onnx": {"precision": "int4"}})
    found = of_a({"a-0": own, "a-0.2": variant(60, 0.2)}, {})
    assert (found["file"], found["beside"]) == ("a-0/onnx", "a-0/onnx")
    assert "the whole model, a-0/onnx, in int4" in found["words"]


def test_a_refused_model_and_other_tasks_are_left_out() -> None:
    rows = {**WHOLE, "int4": whole(90, 0.037, refusal="no"), "other": whole(1, 0.0, task="b")}
    found = recommended({"a-0.2": variant()}, rows, Limits())
    assert [file["name"] for file in found["a"]["files"]] == ["a-0.2/onnx", "int8"]
    assert found["b"]["file"] == "other"


def test_a_limit_of_accuracy() -> None:
    """Of the dense model's, on every task; what was asked nothing is not within it."""

    def answered(share: float) -> dict[str, Any]:
        shares = {"dense": 0.8, "onnx": share}
        scores = {form: {"a": {"acc": value, "questions": 100}} for form, value in shares.items()}
        return {"divergence": {"onnx": divergence(0.1)}, "zero_shot": scores}

    variants = {"a-0.2": variant(60, quality=answered(0.77)), "a-0.5": variant(40, quality=answered(0.7))}
    found = of_a(variants, WHOLE, Limits(min_accuracy_retained=0.95))
    assert (found["file"], found["rule"]) == ("a-0.2/onnx", "limits")
    assert [file["within_limits"] for file in found["files"]] == [False, True, False, False]
    assert found["files"][1]["accuracy"] == {"a": {"share": 0.77, "dense": 0.8, "questions": 100}}
    assert of_a(variants, WHOLE, Limits(min_accuracy_retained=0.99))["file"] is None


def timed(rate: float, ms: float = 9.0) -> dict[str, Any]:
    """Tokens a second, of 50 in the dense model, and the time to the first token of a prompt of 512."""
    cells = [{"batch": 1, "depth": 128, "decode_ms_per_token": 1e3 / rate, "prefill_ms": 9.0}]
    cells += [{**cells[0], "depth": 512, "prefill_ms": ms}]
    return {"dense": [{**cell, "decode_ms_per_token": 20.0} for cell in cells], "variant": cells, "verdicts": []}


def searched(**point: Any) -> dict[str, Any]:
    chosen = {"variant": "a-0.2", "decode_speedup": 2.0, "chosen": True, **point}
    return {"tasks": {"a": {"points": [{**chosen, "variant": "a-0.1", "chosen": False}, chosen]}}}


RATES = [(90, 1.9, "a-0.2/onnx"), (96, 1.9, "int4"), (200, 1.9, "int4"), (99, 2.0, "a-0.2/onnx")]


@pytest.mark.parametrize(("rate", "wanted", "file"), RATES)
def test_what_misses_a_target_for_the_speed_is_not_recommended(rate: float, wanted: float, file: str) -> None:
    """The chosen variant was measured to be twice as fast as the dense model; the others are held against its rate."""
    variants, limits = {"a-0.2": variant(95, 0.13, speed=timed(100))}, Limits(decode_speedup=wanted)
    rows = {"int4": whole(90, 0.037, speed=timed(rate)), "int8": whole(157, 0.0056, "int8")}
    found = recommended(variants, rows, limits, frontier=searched())["a"]
    assert (found["file"], found["files"][-1]["within_limits"]) == (file, False)
    assert recommended(variants, rows, limits)["a"]["file"] is None  # nothing says how fast


def test_what_misses_a_target_for_the_first_token_is_not_recommended() -> None:
    """The chosen variant took 200 ms in the search and takes 220 now, so that what takes 275 still meets 250."""
    frontier = searched(first_token_ms=200.0, first_token_speedup=3.0)
    variants = {"a-0.2": variant(95, 0.13, speed=timed(100, 220.0))}
    limits = Limits(first_token=FirstToken(512, ms=250.0))
    for ms, file in ((270.0, "int4"), (280.0, "a-0.2/onnx")):
        rows = {"int4": whole(90, 0.037, speed=timed(100, ms))}
        found = recommended(variants, rows, limits, (), frontier)["a"]
        assert found["file"] == file
        assert found["limits"]["first_token"] == {"tokens": 512, "ms": 250.0, "speedup": None}
        assert [each["first_token_ms_by_tokens"]["512"] for each in found["files"]] == [ms, 220.0]
    assert "250 ms to the first token of a prompt of 512" in found["words"]
    faster = Limits(first_token=FirstToken(512, speedup=2.4))  # three times as fast: a quarter to spare
    for speed in (timed(100, 280.0), None):
        rows = {"int4": whole(90, 0.037, speed=speed)}
        assert recommended(variants, rows, faster, (), frontier)["a"]["file"] == "a-0.2/onnx"
    assert Limits.of_targets({"first_token": {"tokens": 9, "ms": 1.0, "speedup": None}}).first_token is not None


def figures(kl: float | None, speedup: float | None) -> dict[str, Any]:
    quality = None if kl is None else {"divergence": {"onnx": {"mean_kl_nats": kl}}, "folder": "onnx"}
    speed = None if speedup is None else {"variant": [{"decode_speedup": speedup}], "folder": "onnx"}
    return {"quality": quality, "speed": speed, "task": "a"}


def beatable(size: int = 100, kl: float | None = 0.2, speedup: float | None = 1.5, left: int = 80) -> dict[str, Any]:
    return variant(left=left, bytes={"hf": 400, "onnx": size}, **figures(kl, speedup))


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
    assert beaten_by("a-0.2", {"a-0.2": beatable()}, {"whole": better}) == ("whole" if beats else None)


def test_the_nearest_of_several_is_named() -> None:
    rows = {"far": row(50, kl=0.15), "near": row(99, kl=0.05)}
    assert beaten_by("a-0.2", {"a-0.2": beatable()}, rows) == "near"
    assert beaten_by("a-0.2", {"a-0.2": beatable(kl=None)}, {"far": row(50), "near": row(99)}) is not None
    assert beaten_by("a-0.2", {"a-0.2": beatable(kl=None, speedup=None)}, {"whole": row(1)}) is None


def test_a_variant_of_ratio_0_is_a_whole_model() -> None:
    variants = {"a-0.2": beatable(), "a-0": beatable(90, 0.1, 1.6, left=100)}
    assert beaten_by("a-0.2", variants, {}) == "a-0"
    assert beaten_by("a-0", variants, {}) is None
    assert beaten_by("a-0.2", {**variants, "a-0": beatable(90, 0.1, 1.6, left=99)}, {}) is None
