"""Weights as tensors of an ONNX graph that are read, checked and laid out only when they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx_ir as ir
import torch

from seap_export.errors import InputError
from seap_export.families import ModelSpec
from seap_export.sources.weights import SafetensorsReader, WeightReader, check_weights

__all__ = ["INLINE_BYTES", "LazyWeights", "lazy_tensor", "open_weights"]

#: Tensors up to this size are stored in the graph itself: shapes and other constants of a few numbers.
INLINE_BYTES = 32


class LazyWeights:
    """Tensors of a model, given out in the layouts that the graph needs, without reading any data yet.

    A later precision plugs in here: what is given out is float32, whatever the source stores.
    """

    def __init__(self, reader: WeightReader) -> None:
        self._reader = reader
        self._shapes = reader.shapes()

    def stored(self, name: str) -> ir.TensorProtocol:
        """A tensor in the layout it is stored in."""
        return self._lazy([name], name, self._shapes[name], _join)

    def joined(self, names: Sequence[str], name: str) -> ir.TensorProtocol:
        """Vectors (biases) one after the other, under a name of their own."""
        return self._lazy(names, name, (sum(self._shapes[part][0] for part in names),), _join)

    def transposed(self, names: Sequence[str], name: str) -> ir.TensorProtocol:
        """Weights [out, in] joined along `out` and transposed to [in, out], under a name of their own."""
        shape = (self._shapes[names[0]][1], sum(self._shapes[part][0] for part in names))
        # Transposed before it is widened: a 16-bit weight is then never held twice in float32.
        return self._lazy(names, name, shape, lambda parts: _join(parts).T.contiguous())

    def _lazy(
        self,
        names: Sequence[str],
        name: str,
        shape: tuple[int, ...],
        lay_out: Callable[[list[torch.Tensor]], torch.Tensor],
    ) -> ir.TensorProtocol:
        def read() -> torch.Tensor:
            tensor = lay_out(list(self._reader.read(names).values())).to(torch.float32)
            _refuse_not_finite(tensor, names)
            return tensor

        return lazy_tensor(name, shape, read)


def open_weights(model_folder: Path, spec: ModelSpec) -> LazyWeights:
    """The weights of a model folder, whose names and shapes are those of `spec`.

    Raises:
        InputError: A file is missing or damaged, or config and weights disagree.
    """
    reader = SafetensorsReader(model_folder)
    check_weights(reader, spec.tensors(), str(model_folder))
    return LazyWeights(reader)


def lazy_tensor(name: str, shape: tuple[int, ...], read: Callable[[], torch.Tensor]) -> ir.TensorProtocol:
    """A float32 tensor that `read` gives when it is written; nothing is kept afterwards.

    One so small that it is stored in the graph itself is read now.
    """

    def evaluate() -> ir.Tensor:
        return ir.Tensor(read().numpy(), name=name)

    if math.prod(shape) * torch.float32.itemsize <= INLINE_BYTES:
        return evaluate()
    return ir.LazyTensor(evaluate, ir.DataType.FLOAT, ir.Shape(shape), name=name, cache=False)


def _join(parts: list[torch.Tensor]) -> torch.Tensor:
    """One below the other; a single part stays where it is mapped."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _refuse_not_finite(tensor: torch.Tensor, names: Sequence[str]) -> None:
    # A NaN or an infinity shows in the extremes; a mask of the tensor's size would cost memory, and numpy's
    # reductions run on one thread, where torch's wait for each other on a busy machine.
    array = tensor.numpy()
    if not (math.isfinite(array.min()) and math.isfinite(array.max())):
        raise InputError(f"weights: '{', '.join(names)}' holds NaN or infinite values; download or convert it again")
