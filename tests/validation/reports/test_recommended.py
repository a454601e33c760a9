"""What is recommended, in words."""

from __future__ import annotations

from typing import Any

from validation.reports.recommended import in_words


def file(name: str, size: float, kl: float, **changes: Any) -> dict[str, Any]:
    return {
        "name": name, "folder": "onnx", "precision": "int8", "is_whole": False, "bytes": round(size * 1e6),
        "accuracy": {}, "mean_kl_nats": kl, "mean_kl_nats_stderr": None, "tokens_per_second": None,
        "first_token_ms": None,
        "decode_speedup": None, "beaten": False, "within_limits": True, **changes,
    }  # fmt: skip


SMALL = file("a-0.4/onnx", 47, 0.036, tokens_per_second=194.0, decode_speedup=6.0)
INT4 = file("w4", 90, 0.037, folder=None, precision="int4", is_whole=True, tokens_per_second=129.0, decode_speedup=4.0)
INT8 = file("w8", 157, 0.0056, folder=None, is_whole=True)


def found(chosen: str | None, rule: str = "as near as int4", **changes: Any) -> dict[str, Any]:
    return {
        "file": chosen, "rule": rule, "beside": "w4", "nearest": "w8", "smallest": "a-0.4/onnx",
        "limits": {"bytes": None, "max_kl": None, "min_accuracy_retained": None, "decode_speedup": None},
        "files": [SMALL, INT4, INT8], "not_measured": [], **changes,
    }  # fmt: skip


def test_a_smaller_file_is_held_against_the_whole_model_in_4_bits() -> None:
    assert in_words(found("a-0.4/onnx")) == (
        "Ship a-0.4/onnx in int8 (47.0 MB, 194 tokens/s): about as near to the original as the whole model in int4 "
        "(KL 0.036 instead of 0.037), at 52.2% of its size and 1.50 times its speed. "
        "If 90.0 MB fit, ship the whole model in int4 (KL 0.037)."
    )


def test_limits_and_what_is_missing_are_named() -> None:
    limits = {"bytes": 60_000_000, "max_kl": 0.2, "min_accuracy_retained": None, "decode_speedup": None}
    words = in_words(found("a-0.4/onnx", "limits", limits=limits))
    assert "the smallest file within 60.0 MB and a KL of 0.2, with KL 0.036, at 52.2% of the size" in words
    none = in_words(found(None, "limits", limits=limits, not_measured=["a-0.4/gguf"]))
    assert none == (
        "Ship none of these files: none is within 60.0 MB and a KL of 0.2. The nearest to the original is the whole "
        "model in int8 (157 MB, KL 0.0056). Not measured: a-0.4/gguf."
    )
    fast = {**dict.fromkeys(limits), "decode_speedup": 5.0}
    words = in_words(found("a-0.4/onnx", "nearest", limits=fast))
    assert "of those within 5.00 times the dense model's speed" in words
