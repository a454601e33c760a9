"""Folders of mlx-lm: safetensors, the config that says what is computed, and the code that computes it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from planted.fault import Kind
from planted.formats.planting import DAMAGE, Base, FormatFault, Parts, Plant, Subject, added, replaced
from support.editing import edit_json, set_json
from support.formats.written import WrittenModel

from converters.mlx.layout import Layout
from converters.mlx.writer import MODEL_FILE, WEIGHTS, model_dtype

_DTYPES = {"F32": "<f4", "F16": "<f2", "U32": "u1"}


def _layout(base: Base) -> Layout:
    return Layout(base.spec, base.precision)


def _holds(base: Base, name: str) -> frozenset[str]:
    return frozenset({"float"} if _layout(base).group(name) is None else {"levels", "points"})


def _open(made: WrittenModel, name: str) -> Parts:
    path = made.folder / WEIGHTS
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    layout, parts = Layout(made.spec, made.format.precision, model_dtype(made.source)), {}
    for part, stored in zip(("numbers", "scales", "points"), layout.parts(name), strict=False):
        entry = header[stored]
        start, end = entry["data_offsets"]
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        rows = int(np.prod(entry["shape"][:-1])) if len(entry["shape"]) > 1 else (end - start) // dtype.itemsize
        shape = (rows,) if len(entry["shape"]) == 1 else (rows, (end - start) // rows // dtype.itemsize)
        parts[part] = np.memmap(path, dtype, "r+", 8 + length + start, shape)
    return parts


def _decoder(change: Callable[[dict[str, Any]], object]) -> Plant:
    """Changes what config.json says of the computation."""
    return lambda made: edit_json(made.folder / "config.json", lambda config: change(config["decoder"]))


_IMPORT, _OTHER_BITS = "import mlx.core as mx\n", {"group_size": 64, "bits": 4}
_OWN: tuple[tuple[Kind, str, str, Plant], ...] = (
    ("attribute", "fp32", "another scale", _decoder(lambda said: said["layers"][1]["attention"].update(scale=0.3))),
    ("constant", "fp32", "periods backwards", _decoder(lambda said: said["ropes"][0]["periods"].reverse())),
    ("bits", "8bit", "other bits", lambda made: set_json(made.folder / "config.json", quantization=_OTHER_BITS)),
    ("code", "fp16", "a command in the code", replaced(MODEL_FILE, _IMPORT, f"{_IMPORT}import os; os.getcwd()\n")),
    ("code", "4bit", "further code", added("tokenization_foreign.py", b"pass")),
)
SUBJECT = Subject(
    "mlx",
    {
        "fp32": Base("qwen3-biases", "fp32"),
        "fp16": Base("gemma2-all", "fp16"),
        "8bit": Base("llama-biases", "8bit"),
        "4bit": Base("qwen2_moe", "4bit"),
    },
    _open,
    _holds,
    WEIGHTS,
    tuple(FormatFault(kind, f"{base}: {id}", base, plant, (DAMAGE,)) for kind, base, id, plant in _OWN),
)
