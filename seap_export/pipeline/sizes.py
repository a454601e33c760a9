"""How many bytes a model's weights take, told from its shapes."""

from __future__ import annotations

import math

import torch

from converters.precision import Precision
from seap_export.families import ModelSpec

__all__ = ["weight_bytes"]


def weight_bytes(spec: ModelSpec, dtype: torch.dtype, precision: Precision, removed: float = 0) -> dict[str, int]:
    """In safetensors (`hf`) and in ONNX (`onnx`): about, for norms count like matrices, and headers not at all.

    Args:
        spec: The model's shapes.
        dtype: Of the safetensors files.
        precision: Of the ONNX file.
        removed: Weights of the layers that are taken away first.
    """
    weights = spec.num_parameters() - removed
    whole = 0  # of the weights that stay as they are in ONNX
    if precision.quantization is not None and not precision.quantization.embeddings:
        whole = sum(math.prod(shape) for shape in spec.outer_tensors().values())
    onnx = (weights - whole) * precision.weight_bytes + whole * precision.dtype_bytes
    return {"hf": round(weights * dtype.itemsize), "onnx": round(onnx)}
