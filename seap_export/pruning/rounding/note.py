"""The note of a rounded model: its grid, what it was made from, and the digests that prove its weights.

The note is in the folder of a rounded model, and in every folder that is written from it. So a folder can be compared
with the rounded model where that is missing: what is read back from it either has the digests, or is something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from seap_export.common.json_file import read_artifact, read_json, write_json
from seap_export.errors import ArtifactError
from seap_export.model.sources.weights import Difference, SafetensorsReader, main_dtype
from seap_export.pruning.rounding.grid import BlockQuantization

ROUNDING_FILE = "rounding.json"
_SCHEMA = "seap-export/rounding/2"
#: The keys whose values differ in a rounded model's config.json.
_DTYPES = ("dtype", "torch_dtype")
#: The dtypes in which formats store vectors.
_STORED = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class RoundingNote:
    """The content of `rounding.json`.

    Attributes:
        dtype: Dtype of the model that was rounded: float32, float16 or bfloat16.
        config: Its config.json, without the dtype.
        origin: The SHA-256 of each of its tensors, by its stored name.
        rounded: The SHA-256 of each tensor that the rounded model has otherwise: of its bytes in float32, and of a
            vector's also in float16 and bfloat16, which some formats store.
    """

    grid: BlockQuantization
    dtype: torch.dtype
    config: Mapping[str, Any]
    origin: Mapping[str, str]
    rounded: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, model_folder: Path, rounded: Path, grid: BlockQuantization) -> Self:
        """The note of a rounded model.

        Args:
            model_folder: The model that was rounded: config.json and safetensors files.
            rounded: The safetensors files of the rounded model.
        """
        before, after = SafetensorsReader(model_folder), SafetensorsReader(rounded)
        changed = {}
        for name in after.shapes():
            old, new = (reader.read([name])[name] for reader in (before, after))
            if not torch.equal(old.float(), new):
                changed[name] = _digests(new)
        return cls(grid, main_dtype(before), without_dtype(model_folder), _origin(before), changed)

    def write(self, folder: Path) -> None:
        values = {
            "schema": _SCHEMA,
            "grid": self.grid.to_json(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "config": self.config,
            "origin": self.origin,
            "rounded": self.rounded,
        }
        write_json(folder / ROUNDING_FILE, values, indent=2, sort_keys=True)

    def origin_differences(self, model_folder: Path) -> Iterator[str]:
        """The tensors and settings of a model folder that are not those that were rounded, a line each.

        Raises:
            InputError: The model folder is damaged.
        """
        origin = _origin(SafetensorsReader(model_folder))
        for name in sorted(self.origin.keys() | origin.keys()):
            if self.origin.get(name) != origin.get(name):
                yield Difference(name, f"'{name}' of {model_folder.name} is not what was rounded")
        config = without_dtype(model_folder)
        for key in sorted(self.config.keys() | config.keys()):
            if self.config.get(key) != config.get(key):
                yield f"config.json of {model_folder.name} has another {key} than the rounded model"

    def proves(self, name: str, tensor: torch.Tensor) -> bool:
        """Whether a tensor, float32, is that of `rounded`, or if it is a vector, what 16 bits hold of that."""
        return any(
            digest == expected and torch.equal(tensor.to(dtype).float(), tensor)
            for dtype, digest, expected in zip(_STORED, _digests(tensor), self.rounded[name], strict=False)
        )


def read_note(folder: Path) -> RoundingNote | None:
    """The note in the folder of a rounded model, or in one that was written from it; None: it is neither.

    Raises:
        ArtifactError: The note is damaged.
    """
    path = folder / ROUNDING_FILE
    if not path.is_file():
        return None
    values = read_artifact(path)
    try:
        if values.pop("schema") != _SCHEMA:
            raise ValueError(_SCHEMA)
        grid, dtype = BlockQuantization(**values.pop("grid")), values.pop("dtype")
        if dtype not in ("float32", "float16", "bfloat16"):
            raise ValueError(dtype)
        rounded = {str(name): tuple(map(str, digests)) for name, digests in values.pop("rounded").items()}
        config, origin = dict(values.pop("config")), dict(values.pop("origin"))
        return RoundingNote(grid, getattr(torch, dtype), config, origin, rounded)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: damaged, or of another version; export again") from error


def _origin(reader: SafetensorsReader) -> dict[str, str]:
    return {name: _digest(reader.read([name])[name]) for name in reader.shapes()}


def _digests(tensor: torch.Tensor) -> tuple[str, ...]:
    """The digests in `RoundingNote.rounded`; zeros have no sign, since a scale may have the other one elsewhere."""
    dtypes = _STORED if tensor.dim() == 1 else _STORED[:1]
    return tuple(_digest(tensor.to(dtype) + 0.0) for dtype in dtypes)


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().flatten().view(torch.uint8).numpy().data).hexdigest()


def without_dtype(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder, but for the dtype.

    Raises:
        InputError: It cannot be read.
    """
    return {key: value for key, value in read_json(folder / "config.json").items() if key not in _DTYPES}
