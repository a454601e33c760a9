"""Counts the bytes of text that each token stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def token_sizes(tokenizer: Mapping[str, Any]) -> NDArray[np.int64]:
    """Bytes of every token of a BPE, by id, in the text as the pre-tokenizer leaves it; 0 for ids without a token.

    Args:
        tokenizer: The content of tokenizer.json.
    """
    model = tokenizer["model"]
    is_bytes = '"ByteLevel"' in json.dumps([tokenizer.get("pre_tokenizer"), tokenizer.get("decoder")])
    sizes = {token: len(text) if is_bytes else len(text.encode()) for text, token in model["vocab"].items()}
    if model.get("byte_fallback"):
        ids = model["vocab"]
        sizes |= {ids[text]: 1 for text in (f"<0x{value:02X}>" for value in range(256)) if text in ids}
    sizes |= {entry["id"]: len(entry["content"].encode()) for entry in tokenizer.get("added_tokens") or []}
    sizes_by_id = np.zeros(max(sizes) + 1, np.int64)
    sizes_by_id[list(sizes)] = list(sizes.values())
    return sizes_by_id
