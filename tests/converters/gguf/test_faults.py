"""Faults in a good file, each of which the comparison with the model folder finds."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.editing import edit_json
from support.formats.gguf import GgufModel
from support.product import read_header
from support.uneven import uneven_values

from seap_export.sources.gguf.header import GgufTensor

Write = Callable[..., GgufModel]
UNEVEN = uneven_values("llama-llama3", attention_bias=True)


def _tensor(file: Path, name: str) -> GgufTensor:
    return read_header(file)[1][name]


def _edit(file: Path, name: str, change: Callable[[np.ndarray], np.ndarray], dtype: Any = np.float32) -> None:
    """Changes the numbers of a tensor, [rows, columns]."""
    tensor = _tensor(file, name)
    values = np.fromfile(file, dtype, tensor.size // np.dtype(dtype).itemsize, offset=tensor.offset)
    changed = change(values.reshape(tensor.shape[0], -1)).astype(dtype)
    with file.open("r+b") as stream:
        stream.seek(tensor.offset)
        stream.write(changed.tobytes())


def _replace(file: Path, before: bytes, after: bytes, count: int = 1) -> None:
    data = file.read_bytes()
    assert before in data
    file.write_bytes(data.replace(before, after, count))


def _number(file: Path, key: str, value: int | float) -> None:
    """Sets a number among the metadata."""
    data = bytearray(file.read_bytes())
    offset = data.index(key.encode()) + len(key) + 4
    data[offset : offset + 4] = struct.pack("<f" if isinstance(value, float) else "<I", value)
    file.write_bytes(bytes(data))


def _swap(file: Path, first: str, second: str) -> None:
    """Swaps the places of two tensors of the same length."""
    one, two = _tensor(file, first), _tensor(file, second)
    data = bytearray(file.read_bytes())
    kept = bytes(data[one.offset : one.offset + one.size])
    data[one.offset : one.offset + one.size] = data[two.offset : two.offset + two.size]
    data[two.offset : two.offset + two.size] = kept
    file.write_bytes(bytes(data))


def _array(file: Path, key: str, index: int, value: int) -> None:
    """Sets an item of an array of whole numbers among the metadata."""
    data = bytearray(file.read_bytes())
    offset = data.index(key.encode()) + len(key) + 4 + 4 + 8 + 4 * index
    data[offset : offset + 4] = struct.pack("<i", value)
    file.write_bytes(bytes(data))


def _of_model(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[GgufModel], None]:
    """Changes a JSON file of the model folder, to which the file then does not belong."""

    return lambda made: edit_json(made.source / name, change)


def _of_file(change: Callable[..., None], *arguments: Any) -> Callable[[GgufModel], None]:
    return lambda made: change(made.file, *arguments)


def _unpermuted(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, 8, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def _flipped(raw: np.ndarray, offset: int) -> np.ndarray:
    """A byte of every row with another last bit."""
    return np.where(np.arange(raw.shape[1]) == offset, raw ^ 1, raw)


FAULTS: dict[str, Callable[[GgufModel], None]] = {
    "rows of q not permuted": _of_file(_edit, "blk.1.attn_q.weight", _unpermuted),
    "bias of k not permuted": _of_file(_edit, "blk.1.attn_k.bias", _unpermuted),
    "rows of two heads swapped": _of_file(_edit, "blk.0.attn_q.weight", lambda rows: np.roll(rows, 16, axis=0)),
    "bias of o_proj zero": _of_file(_edit, "blk.1.attn_output.bias", np.zeros_like),
    "bias of down_proj negative": _of_file(_edit, "blk.1.ffn_down.bias", np.negative),
    "weights a thousandth larger": _of_file(_edit, "blk.2.ffn_up.weight", lambda rows: rows * 1.001),
    "one weight off": _of_file(_edit, "blk.2.ffn_down.weight", lambda rows: rows + 0.01 * (rows == rows.max())),
    "k and v swapped": _of_file(_swap, "blk.1.attn_k.weight", "blk.1.attn_v.weight"),
    "gate and up swapped": _of_file(_swap, "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"),
    "norms swapped": _of_file(_swap, "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"),
    "layers swapped": _of_file(_swap, "blk.0.attn_norm.weight", "blk.2.attn_norm.weight"),
    "embedding and head swapped": _of_file(_swap, "token_embd.weight", "output.weight"),
    "rows of the embedding shifted": _of_file(_edit, "token_embd.weight", lambda rows: np.roll(rows, 1, axis=0)),
    "factors of the rotation": _of_file(_edit, "rope_freqs.weight", lambda rows: rows * 2),
    "a tensor renamed": _of_file(_replace, b"blk.1.attn_output.bias", b"blk.1.attn_outpux.bias"),
    "architecture": _of_file(_replace, b"deci", b"dECI"),
    "rope base": _of_file(_number, "deci.rope.freq_base", 20000.0),
    "norm epsilon": _of_file(_number, "deci.attention.layer_norm_rms_epsilon", 1e-6),
    "context": _of_file(_number, "deci.context_length", 64),
    "rotated channels": _of_file(_number, "deci.rope.dimension_count", 8),
    "heads of a layer": _of_file(_array, "deci.attention.head_count", 1, 2),
    "KV heads of a layer": _of_file(_array, "deci.attention.head_count_kv", 1, 1),
    "EOS": _of_file(_number, "tokenizer.ggml.eos_token_id", 1),
    "BOS": _of_file(_number, "tokenizer.ggml.bos_token_id", 2),
    "rule of the tokenizer": _of_file(_replace, b"gpt-2", b"qwen2"),
    "a token": _of_file(_replace, "\u0120the".encode(), "\u0120thE".encode()),
    "kind of a token": _of_file(_array, "tokenizer.ggml.token_type", 0, 1),
    "chat template": _of_file(_replace, b"{{ messages }}", b"{{ massages }}"),
    "truncated": lambda made: made.file.write_bytes(made.file.read_bytes()[:-300]),
    "bytes appended": lambda made: made.file.write_bytes(made.file.read_bytes() + bytes(64)),
    "not a GGUF file": lambda made: made.file.write_bytes(b"GGML" + made.file.read_bytes()[4:]),
    "empty": lambda made: made.file.write_bytes(b""),
    "model with another EOS": _of_model("generation_config.json", lambda values: values.update(eos_token_id=1)),
    "tokenizer of another model": _of_model("tokenizer.json", lambda values: values["model"]["merges"].pop()),
    "model with another base": _of_model("config.json", lambda values: values.update(rope_theta=500.0)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(write: Write, fault: str) -> None:
    made = write(**UNEVEN)
    assert made.complaints() == []
    FAULTS[fault](made)
    assert made.complaints() != []


#: Faults of quantised files: of the first block's scale, and of its first numbers.
QUANTISED: dict[str, Callable[[GgufModel], None]] = {
    "scale off": _of_file(_edit, "blk.0.ffn_up.weight", lambda raw: _flipped(raw, 1), np.uint8),
    "one number off": _of_file(_edit, "blk.0.ffn_up.weight", lambda raw: _flipped(raw, 5), np.uint8),
    "halves of bytes swapped": _of_file(_edit, "blk.0.ffn_up.weight", lambda raw: raw >> 4 | raw << 4, np.uint8),
}


@pytest.mark.parametrize("fault", QUANTISED)
@pytest.mark.parametrize("precision", ["q8_0", "q4_0"])
def test_a_fault_in_blocks_is_found(write: Write, fault: str, precision: str) -> None:
    made = write(precision, **UNEVEN)
    assert made.complaints() == []
    QUANTISED[fault](made)
    assert made.complaints() != []


@pytest.mark.needs("llama.cpp")
def test_small_faults_of_k_quants_are_not_found(write: Write) -> None:
    """Their bytes depend on the release of llama.cpp, so that only what is beyond their rounding counts."""
    values = {**UNEVEN, "hidden_size": 256}
    made = write("q6_k", **values)
    assert made.complaints() == []
    _edit(made.file, "blk.0.ffn_up.weight", lambda raw: _flipped(raw, 5), np.uint8)
    assert made.complaints() == []
    _edit(made.file, "blk.0.ffn_up.weight", lambda raw: np.roll(raw, 1, axis=0), np.uint8)
    assert made.complaints() != []
