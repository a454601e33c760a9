"""Reads the parts of tables whose rows have bits of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from seap_export.errors import ArtifactError
from seap_export.model.sources.weights import WeightReader
from seap_export.pruning.rounding.table_rows import TableRows


class PartsReader:
    """Weights, and the parts of tables by their names."""

    def __init__(self, reader: WeightReader, tables: Sequence[TableRows]) -> None:
        self._reader = reader
        shapes = reader.shapes()
        for table in tables:
            if table.name not in shapes or shapes[table.name][0] != len(table.bits):
                raise ArtifactError(f"the bits of {len(table.bits)} rows are known, and '{table.name}' has others")
        self._parts = {part.name: (table.name, part.rows) for table in tables for part in table.parts}

    def dtypes(self) -> dict[str, torch.dtype]:
        """The dtype of each tensor, as it is stored."""
        dtypes = self._reader.dtypes()
        return dtypes | {name: dtypes[table] for name, (table, _) in self._parts.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor."""
        shapes = self._reader.shapes()
        return shapes | {name: (len(rows), *shapes[table][1:]) for name, (table, rows) in self._parts.items()}

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        wanted = list(names)
        tables = {self._parts[name][0] for name in wanted if name in self._parts}
        whole = self._reader.read([*(name for name in wanted if name not in self._parts), *sorted(tables)])
        return {
            name: whole[self._parts[name][0]][self._parts[name][1]] if name in self._parts else whole[name]
            for name in wanted
        }
