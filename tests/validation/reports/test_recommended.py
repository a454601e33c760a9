"""What is recommended, in words."""

from __future__ import annotations

from typing import Any

from validation.reports.recommended import in_words

FILE: dict[str, Any] = {
    "folder": None, "is_whole": True, "accuracy": {}, "mean_kl_nats_stderr": None, "tokens_per_second": None,
    "first_token_ms": None, "decode_speedup": None, "beaten": False, "within_limits": True,
}  # fmt: skip
SMALL = {"name": "a-0.4/onnx", "bytes": 47_000_000, "mean_kl_nats": 0.036, "precision": "int8"} | {
    "tokens_per_second": 194.0, "decode_speedup": 6.0, "folder": "onnx", "is_whole": False,
}  # fmt: skip
INT4 = {"name": "w4", "bytes": 90_000_000, "mean_kl_nats": 0.037, "precision": "int4"} | {
    "tokens_per_second": 129.0, "decode_speedup": 4.0,
}  # fmt: skip
INT8 = {"name": "w8", "bytes": 157_000_000, "mean_kl_nats": 0.0056, "precision": "int8"}
LIMITS = {"bytes": 60_000_000, "max_kl": 0.2, "min_accuracy_retained": None, "decode_speedup": None}


def words(chosen: str | None, rule: str, **changes: Any) -> str:
    files = [FILE | one for one in (SMALL, INT4, INT8)]
    told = {"file": chosen, "rule": rule, "beside": "w4", "nearest": "w8", "smallest": "a-0.4/onnx", "files": files}
    return in_words(told | {"limits": dict.fromkeys(LIMITS), "not_measured": []} | changes)


def test_the_file_is_held_against_the_whole_model_in_4_bits_and_the_limits() -> None:
    assert words("a-0.4/onnx", "as near as int4") == (
        "Ship a-0.4/onnx in int8 (47.0 MB, 194 tokens/s): about as near to the original as the whole model in int4 "
        "(KL 0.036 instead of 0.037), at 52.2% of its size and 1.50 times its speed. "
        "If 90.0 MB fit, ship the whole model in int4 (KL 0.037)."
    )
    within = "the smallest file within 60.0 MB and a KL of 0.2, with KL 0.036, at 52.2% of the size"
    assert within in words("a-0.4/onnx", "limits", limits=LIMITS)
    assert words(None, "limits", limits=LIMITS, not_measured=["a-0.4/gguf"]) == (
        "Ship none of these files: none is within 60.0 MB and a KL of 0.2. The nearest to the original is the whole "
        "model in int8 (157 MB, KL 0.0056). Not measured: a-0.4/gguf."
    )
