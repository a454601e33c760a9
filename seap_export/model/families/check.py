"""Rejects impossible values in config.json before they cost time or memory, or raise an obscure library error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seap_export.errors import InputError

#: More than any model has. Every layer gets a description, and every position a row in the graph's rotary tables.
_MAX_SIZES = {"num_hidden_layers": 10_000, "max_position_embeddings": 2**24}
_MAX_WINDOW = 2**31 - 1  # limit of the attention operators
#: Parameters of the rotary embedding variants, and whether they may be 0.
_ROPE_NUMBERS = {
    "factor": False,
    "low_freq_factor": False,
    "high_freq_factor": False,
    "original_max_position_embeddings": False,
    "beta_fast": False,
    "beta_slow": False,
    "attention_factor": False,
    "mscale": True,
    "mscale_all_dim": True,
    "partial_rotary_factor": True,
}
_ROPE_LISTS = ("short_factor", "long_factor")


def check_sizes(config: Mapping[str, Any]) -> None:
    """Rejects counts that would exhaust the memory."""
    for key, most in _MAX_SIZES.items():
        value = config.get(key)
        if isinstance(value, int) and value > most:
            raise InputError(f"config.json: {key} {value!r:.40} is out of range; use a model with at most {most}")


def check_rope(rope_type: str, parameters: Mapping[str, Any]) -> None:
    """Rejects invalid rotary parameters."""
    for key, may_be_zero in _ROPE_NUMBERS.items():
        value = parameters.get(key)
        if value is not None and not (isinstance(value, int | float) and (value > 0 or (may_be_zero and value == 0))):
            raise InputError(
                f"config.json: rope parameter '{key}' must be a positive number, not {value!r:.40}; "
                "correct it, or download the model again"
            )
    for key in _ROPE_LISTS:
        values = parameters.get(key)
        if values is not None and not (
            isinstance(values, list) and all(isinstance(value, int | float) and value > 0 for value in values)
        ):
            raise InputError(
                f"config.json: rope parameter '{key}' must be a list of positive numbers, not {values!r:.40}; "
                "correct it, or download the model again"
            )
    if rope_type == "llama3" and parameters["low_freq_factor"] >= parameters["high_freq_factor"]:
        raise InputError(
            "config.json: rope parameter 'low_freq_factor' must be less than 'high_freq_factor'; "
            "correct it, or download the model again"
        )


def check_window(window: int | None) -> None:
    """Rejects an impossible sliding window."""
    if window is not None and not 1 <= window <= _MAX_WINDOW:
        raise InputError(f"config.json: sliding_window {window!r:.40} is out of range; give null for none")
