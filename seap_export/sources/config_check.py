"""Rejects impossible special tokens in config.json before they raise an obscure library error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seap_export.errors import InputError

__all__ = ["check_token_ids"]

_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def check_token_ids(configs: Mapping[str, Mapping[str, Any]], vocab_size: int) -> None:
    """Rejects special tokens that are not in the vocabulary; -1 means none in old configs.

    Args:
        configs: Contents by file name: config.json and generation_config.json.
        vocab_size: Number of tokens of the model.

    Raises:
        InputError: An id is not an integer or is out of range.
    """
    for where, config in configs.items():
        for key in _SPECIAL_TOKENS:
            value = config.get(key)
            for token in value if isinstance(value, list) else [value]:
                if token is not None and not (type(token) is int and -1 <= token < vocab_size):
                    raise InputError(f"{where}: {key} {token!r:.40} is not one of the model's {vocab_size} tokens")
