"""Writes a model folder as one that mlx-lm loads, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from converters.mlx.decoder import described
from converters.mlx.layout import Layout
from converters.mlx.quantize import kept, quantize
from converters.onnx.weights.overflow import refuse_overflow
from converters.progress import LayerProgress
from converters.read_back import not_finite, open_plain
from converters.small_files import Content, copies, in_order, write_files
from converters.whole import whole_or_nothing
from seap_export.common.json_file import read_json
from seap_export.errors import InputError
from seap_export.model.families import ModelSpec
from seap_export.model.sources.stored import PlainReader
from seap_export.model.sources.tensor_writer import SafetensorsWriter
from seap_export.model.sources.tokenizer import tokenizer_names
from seap_export.model.sources.weights import SafetensorsReader, main_dtype
from seap_export.pruning.rounding.note import read_note

#: The model file's name in an artifact.
MODEL_FILE = "modeling_mlx.py"
WEIGHTS = "model.safetensors"
#: Elements that are checked at a time.
_ELEMENTS = 1 << 24
#: Keys of hf/config.json that only transformers follows, or that "decoder" says for every layer.
_LEFT_OUT = ("architectures", "auto_map", "base_model_tp_plan", "dtype", "per_layer_config", "torch_dtype")


def write_mlx(
    model_folder: Path,
    out_folder: Path,
    spec: ModelSpec,
    layout: Layout,
    on_layer: Callable[[int], None],
    *,
    is_tried: bool = False,
) -> None:
    """Writes weights, config, model file and tokenizer; see `Format.write`.

    Memory holds one tensor, as it is stored and as it is written. What MLX computes in float16 is tried before, unless
    it was already.
    """
    plain = open_plain(model_folder, spec)
    files = mlx_files(model_folder, spec, layout)
    if layout.dtype == torch.float16 and not is_tried:
        refuse_overflow(read_json(model_folder / "config.json"), spec, plain, "use mlx:bf16 or mlx:fp32")
    with whole_or_nothing(out_folder):
        _write_weights(plain, spec, layout, out_folder / WEIGHTS, on_layer)
        write_files(out_folder, files)


def model_dtype(model_folder: Path) -> torch.dtype:
    """The dtype of a model folder's weights, or of those that a rounded model was made from."""
    note = read_note(model_folder)
    return main_dtype(SafetensorsReader(model_folder)) if note is None else note.dtype


def mlx_files(model_folder: Path, spec: ModelSpec, layout: Layout) -> dict[str, Content]:
    """The contents of all files but the weights, by name; generation_config.json holds the tokens that end a text.

    The model file is code that mlx-lm runs, and it is that of this release.
    """
    return {
        MODEL_FILE: (resources.files("converters.mlx") / MODEL_FILE).read_bytes(),
        **copies(model_folder, *tokenizer_names(model_folder), "generation_config.json"),
        "config.json": in_order(_config(model_folder, spec, layout)),
    }


def _config(model_folder: Path, spec: ModelSpec, layout: Layout) -> dict[str, Any]:
    """The config.json of the folder: that of hf/ with what mlx-lm and the model file read."""
    config = {key: value for key, value in read_json(model_folder / "config.json").items() if key not in _LEFT_OUT}
    config |= {"decoder": described(spec), "dtype": str(layout.dtype).removeprefix("torch."), "model_file": MODEL_FILE}
    quantization = layout.quantization()
    return config if quantization is None else config | {"quantization": quantization}


def stored_parts(name: str, tensor: torch.Tensor, layout: Layout) -> dict[str, torch.Tensor]:
    """Converts a tensor of the plain form to its stored tensors, by name: itself, or levels, scales and biases."""
    first, *_ = layout.parts(name)
    group, rows = layout.group(name), layout.rows(name, tensor)
    narrow = rows.to(layout.dtypes[first] if group is None else layout.dtype)
    if group is None or layout.bits is None:
        parts = [narrow]
    else:
        grid = layout.grid(name)
        on_grid = None if grid is None else kept(rows, layout.dtype, grid)
        made = on_grid or quantize(narrow, layout.bits_of(name), group)
        parts = [made.weight, made.scales, made.biases]
    if not all(_is_finite(part) for part in (narrow, *parts[1:])):
        if not _is_finite(tensor):
            raise not_finite(name)
        dtype = str(layout.dtype).removeprefix("torch.")
        raise InputError(f"weights: '{name}' is too large for {dtype}; use bf16 or fp32")
    pairs = zip(layout.parts(name), parts, strict=True)
    return {stored: part.reshape(layout.shapes[stored]) for stored, part in pairs}


def _write_weights(
    plain: PlainReader, spec: ModelSpec, layout: Layout, path: Path, on_layer: Callable[[int], None]
) -> None:
    progress = LayerProgress(spec.tensors(), on_layer)
    with SafetensorsWriter(path, layout.shapes, layout.dtypes, framework="mlx") as writer:
        for name in spec.tensors():
            (tensor,) = plain.read([name]).values()
            for stored, part in stored_parts(name, tensor, layout).items():
                writer.write(stored, part)
            progress.add(name)


def _is_finite(tensor: torch.Tensor) -> bool:
    rows = max(1, _ELEMENTS // max(1, math.prod(tensor.shape[1:])))
    return all(bool(torch.isfinite(torch.stack(torch.aminmax(piece.float()))).all()) for piece in tensor.split(rows))
