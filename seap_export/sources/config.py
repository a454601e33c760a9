"""Reads config.json and writes it so that transformers 4.57 and 5 read it the same way."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seap_export.errors import InputError

__all__ = ["MAX_JSON_BYTES", "portable_config", "read_json"]

#: The largest JSON file that is read (256 MiB); tokenizers with large vocabularies take 35 MB.
MAX_JSON_BYTES = 256 * 2**20
#: Keys that say nothing about the model: set by a loader, or for classifiers (a number of labels becomes a table).
_TRANSIENT_KEYS = (
    "_name_or_path", "_model_name_or_path", "transformers_version", "quantization_config", "num_labels", "id2label",
    "label2id",
)  # fmt: skip
#: Keys that make transformers download and run code from the model's folder or from the hub.
_CODE_KEYS = ("auto_map", "custom_pipelines", "attn_implementation", "_attn_implementation")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        InputError: The file is missing, larger than `MAX_JSON_BYTES` or not a JSON object, or contains a number that
            is not finite.
    """
    if not os.path.exists(path):  # unlike Path.exists, does not raise for an impossible name
        raise InputError(f"{path}: no such file")
    if not os.path.isfile(path):
        raise InputError(f"{path}: not a readable JSON file (not a file)")
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise ValueError(f"{size / 1e6:.0f} MB, the limit is {MAX_JSON_BYTES / 1e6:.0f} MB")
        value = json.loads(path.read_text("utf-8"), parse_float=_finite, parse_constant=_finite)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it contains the number {text:.20}")
    return number


def portable_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same config with rotary parameters and dtype spelled for both major versions, and without code.

    transformers 5 writes `rope_parameters`, which 4.57 ignores without a warning, falling back to theta 10000. Both
    read `rope_theta` and `rope_scaling`.
    """
    portable = {key: value for key, value in config.items() if key not in (*_TRANSIENT_KEYS, *_CODE_KEYS)}
    rope = dict(portable.pop("rope_parameters", None) or portable.get("rope_scaling") or {})
    portable["rope_theta"] = rope.pop("rope_theta", None) or portable.get("rope_theta") or 10000.0
    rope_type = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    rope.pop("type", None)
    portable["rope_scaling"] = None if rope_type == "default" else {"rope_type": rope_type, **rope}
    dtype = portable.pop("torch_dtype", None) or portable.get("dtype")
    if dtype is not None:
        portable["dtype"] = dtype
    return portable
