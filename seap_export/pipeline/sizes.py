"""Computes how many bytes a model's weights take from its shapes."""

from __future__ import annotations

import math

import torch

from converters.precision import Precision
from seap_export.families import ModelSpec

__all__ = ["weight_bytes"]


def weight_bytes(spec: ModelSpec, dtype: torch.dtype, precision: Precision, removed: float = 0) -> dict[str, int]:
    """Approximate size in safetensors (`hf`) and in ONNX (`onnx`): norms count like matrices, headers do not count.

    Args:
        spec: The model's shapes.
        dtype: Dtype of the safetensors files.
        precision: Precision of the ONNX file.
        removed: Number of weights that are removed from the layers first.
    """
    weights = spec.num_parameters() - removed
    whole = 0  # of the weights that stay as they are in ONNX
    if precision.quantization is not None and not precision.quantization.embeddings:
        whole = sum(math.prod(shape) for shape in spec.outer_tensors().values())
    onnx = (weights - whole) * precision.weight_bytes + whole * precision.dtype_bytes
    return {"hf": round(weights * dtype.itemsize), "onnx": round(onnx)}
