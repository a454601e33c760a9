"""A config.json that transformers 4.57 and 5 read alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seap_export.errors import InputError

__all__ = ["portable_config", "read_json"]

#: What a loader puts into a config that says nothing about the model.
_TRANSIENT_KEYS = ("_name_or_path", "_model_name_or_path", "transformers_version", "quantization_config")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        InputError: The file is missing, is not JSON, or holds something else than an object.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object")
    return value


def portable_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same config with the rotary parameters and the dtype spelled for both generations.

    transformers 5 writes `rope_parameters`; 4.57 does not know it and would fall back to theta 10000
    without a word. It reads `rope_theta` and `rope_scaling`, which 5 still understands.
    """
    portable = {key: value for key, value in config.items() if key not in _TRANSIENT_KEYS}
    rope = dict(portable.pop("rope_parameters", None) or portable.get("rope_scaling") or {})
    portable["rope_theta"] = rope.pop("rope_theta", None) or portable.get("rope_theta") or 10000.0
    rope_type = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    rope.pop("type", None)
    portable["rope_scaling"] = None if rope_type == "default" else {"rope_type": rope_type, **rope}
    dtype = portable.pop("torch_dtype", None) or portable.get("dtype")
    if dtype is not None:
        portable["dtype"] = dtype
    return portable
