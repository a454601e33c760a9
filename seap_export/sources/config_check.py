"""Special tokens of a config.json that no model has, refused before they end in a library's error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seap_export.errors import InputError

__all__ = ["check_token_ids"]

_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def check_token_ids(configs: Mapping[str, Mapping[str, Any]], vocab_size: int) -> None:
    """Refuses special tokens that are not in the vocabulary; -1 stands for none in old configs.

    Args:
        configs: By their file, config.json and generation_config.json.
        vocab_size: Tokens of the model.

    Raises:
        InputError: An id is out of range, or is none.
    """
    for where, config in configs.items():
        for key in _SPECIAL_TOKENS:
            value = config.get(key)
            for token in value if isinstance(value, list) else [value]:
                if token is not None and not (type(token) is int and -1 <= token < vocab_size):
                    raise InputError(f"{where}: {key} {token!r:.40} is not one of the model's {vocab_size} tokens")
