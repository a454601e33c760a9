"""What the comparison of K-quants with the model finds; `tests/planted/formats` plants all other faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.formats.gguf import GgufModel
from support.product import read_header
from support.uneven import uneven_values

Write = Callable[..., GgufModel]
UNEVEN = uneven_values("llama-llama3", attention_bias=True)


def _edit(file: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes the bytes of a tensor, [rows, bytes of a row]."""
    tensor = read_header(file)[1][name]
    stored = np.memmap(file, np.uint8, "r+", tensor.offset, (tensor.shape[0], tensor.size // tensor.shape[0]))
    stored[:] = change(stored.copy())


def _flipped(raw: np.ndarray, offset: int) -> np.ndarray:
    """A byte of every row with another last bit."""
    return np.where(np.arange(raw.shape[1]) == offset, raw ^ 1, raw)


@pytest.mark.needs("llama.cpp")
def test_small_faults_of_k_quants_are_not_found(write: Write) -> None:
    """Their bytes depend on the release of llama.cpp, so that only what is beyond their rounding counts."""
    values = {**UNEVEN, "hidden_size": 256}
    made = write("q6_k", **values)
    assert made.complaints() == []
    _edit(made.file, "blk.0.ffn_up.weight", lambda raw: _flipped(raw, 5))
    assert made.complaints() == []
    _edit(made.file, "blk.0.ffn_up.weight", lambda raw: np.roll(raw, 1, axis=0))
    assert made.complaints() != []
