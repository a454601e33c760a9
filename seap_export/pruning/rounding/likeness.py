"""Whether rounding can have made the weights of a rounded model, given those of the model that was rounded.

Errors that later columns make up for move single weights by several levels, and a fit turns a row away from what it
was. But what this adds to a row is nearly orthogonal to it: with W a row before and Q after,

    <Q, W> / <W, W>

stays near 1, the nearer the more bits there are. It is about 0 for another row or one whose columns are permuted, -1
for one with another sign, and 2 for one that is doubled. Over a whole matrix it is nearer to 1 than in single rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from seap_export.model.sources.weights import Difference
from seap_export.model.sources.written import folder_source
from seap_export.pruning.rounding.folding import unfolded
from seap_export.pruning.rounding.grid import BlockQuantization

#: How far from 1 a row and a matrix of 4 bits may be, and how many times as far for each bit less. Measured roundings
#: come to half of it at most: docs/contributing/checks.md#rounded-models.
_ROW, _MATRIX, _A_BIT_LESS = 0.55, 0.33, 1.7
#: Rows that are looked at at a time.
_ROWS = 8192


def unlike_tensors(model_folder: Path, rounded: Path, grid: BlockQuantization) -> Iterator[Difference]:
    """The tensors that rounding cannot have made of those of the model folder, a line each.

    A layer of each is in memory at a time. Biases are fitted to what is left, and are not judged.

    Args:
        model_folder: The model that was rounded: config.json and safetensors files.
        rounded: The rounded one, in the same form.

    Raises:
        InputError: One of the folders is damaged.
    """
    exact, other = folder_source(model_folder), folder_source(rounded)
    spec = exact.spec
    parts: list[tuple[int | None, list[str]]] = [(None, [name]) for name in spec.outer_tensors()]
    parts += [(index, list(spec.layer_tensors(index))) for index in range(len(spec.layers))]
    for index, part in parts:
        before, after = exact.reader.read(part), other.reader.read(part)
        if index is not None and grid.rows:
            after = unfolded(spec, index, before, after)
        for name in part:
            if what := _unlike(name, before[name], after[name], grid):
                yield Difference(name, f"'{name}' of the rounded model {what}")


def _unlike(name: str, before: torch.Tensor, after: torch.Tensor, grid: BlockQuantization) -> str | None:
    """Describes a change of a tensor that rounding cannot explain; None: there is none."""
    if before.dim() == 1:
        is_alike = name.endswith(".bias") or torch.allclose(before.float(), after.float(), rtol=1e-5)
        return None if is_alike else "is another than that which was rounded, though vectors are not rounded"
    sizes, changes = [], []
    for old, new in zip(*(matrix.flatten(0, -2).split(_ROWS) for matrix in (before, after)), strict=True):
        sizes.append(old.float().square().sum(1))
        changes.append(((new.float() - old.float()) * old.float()).sum(1))
    size, change = torch.cat(sizes).double(), torch.cat(changes).double()
    # what is added to a small row is as large as what is added to others
    least = (size * size.clamp_min(size.mean())).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    by_bits = [(part.bits, part.rows) for part in grid.parts(name)] or [(grid.of(name).bits, torch.arange(len(size)))]
    for bits, rows in by_bits:
        factor = _A_BIT_LESS ** (4 - bits)
        whole = float(change[rows].sum() / size[rows].sum().clamp_min(torch.finfo(torch.float64).tiny))
        far = rows[~((change[rows] / least[rows]).abs() <= _ROW * factor)].tolist()
        if not abs(whole) <= _MATRIX * factor:
            return f"keeps {1 + whole:.2f} of that which was rounded to {bits} bits; rounding keeps nearly all"
        if far:
            return f"has {len(far)} rows that rounding to {bits} bits cannot make, for example row {far[0]}"
    return None
