"""Makes the rows of a file's tensors from a model's weights, a block at a time, and turns rows back into weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from converters.gguf.layout import FileTensor, Part
from converters.read_back import not_finite
from seap_export.errors import InputError
from seap_export.model.sources.weights import WeightReader

#: Values that are converted at a time (16 MiB in float32).
_AT_ONCE = 2**22
_LARGEST_FLOAT16 = 65504.0


def rows_of(tensor: FileTensor, kind: Kind, reader: WeightReader) -> Iterator[NDArray[np.float32]]:
    """The rows of a tensor as the file has them, float32 [rows, columns], from the first."""
    stored, read = torch.empty(0), ""
    for part in tensor.parts:
        if part.plain != read:
            stored, read = reader.read([part.plain])[part.plain], part.plain
        for start, rows in _blocks(part, stored):
            if not np.isfinite(rows).all():
                raise not_finite(part.plain)
            if kind == Kind.F16 and np.abs(rows).max(initial=0.0) > _LARGEST_FLOAT16:
                raise InputError(
                    f"tensor '{part.plain}' holds weights beyond float16's {_LARGEST_FLOAT16:g} (from row {start}); "
                    "use f32 or q8_0"
                )
            yield rows if len(tensor.shape) == 1 else rows.reshape(-1, tensor.columns)


def plain_rows(tensor: FileTensor, rows: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The tensors of the plain form in a tensor of the file, by their full names; undoes order and factors."""
    plain = {name: np.empty(_shape_of(tensor, name), np.float32) for name in {part.plain for part in tensor.parts}}
    start, rows = 0, rows.reshape(sum(part.rows for part in tensor.parts), -1)
    for part in tensor.parts:
        part_rows = rows[start : start + part.rows]
        if part.factor != 1.0:
            part_rows = (part_rows.astype(np.float64) / part.factor).astype(np.float32)
        if part.is_log_decay:
            part_rows = np.log(-part_rows.astype(np.float64)).astype(np.float32)
        order = np.arange(part.rows) if part.order is None else part.order
        columns = slice(None) if part.columns is None else part.columns
        plain[part.plain][order[:, None] if part.columns is not None else order, columns] = part_rows
        start += part.rows
    return plain


def _shape_of(tensor: FileTensor, name: str) -> tuple[int, int]:
    """Rows and columns of a tensor of the plain form, of which the parts hold one or all; a vector has one column."""
    parts = [part for part in tensor.parts if part.plain == name]
    width = tensor.size // sum(part.rows for part in tensor.parts)
    rows = {int(part.order[0]) if part.order is not None else 0: part.rows for part in parts}
    columns = {int(part.columns.min()) if part.columns is not None else 0: width for part in parts}
    return sum(rows.values()), sum(columns.values())


def _blocks(part: Part, stored: torch.Tensor) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The rows of a part of a tensor, [rows, columns]; those of a vector are one row."""
    is_vector = stored.ndim == 1
    order = np.arange(part.rows) if part.order is None else part.order
    step = part.rows if is_vector else max(1, _AT_ONCE // stored[0].numel())
    for start in range(0, part.rows, step):
        rows = stored[torch.from_numpy(order[start : start + step])]
        rows = rows if is_vector else rows.flatten(1)
        if part.columns is not None:
            rows = rows[:, torch.from_numpy(part.columns)]
        if part.is_log_decay:
            rows = -rows.double().exp()
        if part.factor != 1.0:
            rows = rows.double() * part.factor
        values: NDArray[np.float32] = rows.float().numpy()
        yield start, values[None] if is_vector else values
