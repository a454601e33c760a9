"""A GGUF file: its metadata, family and tensors, which are dequantised one at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from seap_export.errors import InputError
from seap_export.families import Family, GgufForm, family_of_gguf
from seap_export.sources.gguf_header import GgufTensor, read_header

__all__ = ["GgufFile"]


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file; does not keep the file mapped.

    Attributes:
        path: The file.
        metadata: Its key/value pairs, with arrays as lists.
        tensors: Its tensors by their names in the file.
        family: The family of its architecture.
        asked: The metadata of the architecture that were asked for.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    family: Family
    asked: set[str] = field(default_factory=set, compare=False)

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Reads and checks the header.

        Raises:
            InputError: The file is missing, truncated, not a GGUF file, one of several shards, or of an unsupported
                architecture.
        """
        metadata, tensors = _read_header(path)
        if metadata.get("split.count", 0) not in (0, 1):
            raise InputError(
                f"{path}: one of {metadata['split.count']} shards; join them with 'llama-gguf-split --merge' first"
            )
        architecture = str(metadata.get("general.architecture", "(not stated)"))
        return cls(path, metadata, tensors, family_of_gguf(architecture))

    @property
    def form(self) -> GgufForm:
        """How GGUF files hold models of this family."""
        assert self.family.gguf is not None  # it was found by its architecture
        return self.family.gguf

    def get(self, key: str, default: Any = None) -> Any:
        """The metadata value `{architecture}.{key}`."""
        self.asked.add(key)
        return self.metadata.get(f"{self.form.architecture}.{key}", default)

    def whole(self, key: str, default: int | None = None) -> int:
        """Like `get`, for a positive whole number, which may be given for each layer.

        Raises:
            InputError: It is missing and has no default, or differs between layers.
        """
        value = self.get(key, default)
        if isinstance(value, list) and len(set(value)) == 1:
            value = value[0]
        if isinstance(value, list):
            raise InputError(f"{self.path}: '{key}' differs by layer; only models with uniform layers are supported")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{self.path}: metadata '{key}' must be a positive whole number, not {value!r}")
        return value

    def number(self, key: str, default: float) -> float:
        """Like `get`, for a number, as the shortest decimal of its float32 value: 1e-05 for 9.999999747378752e-06.

        Raises:
            InputError: It is something else.
        """
        value = self.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise InputError(f"{self.path}: metadata '{key}' must be a number, not {value!r}")
        return float(str(np.float32(value)))

    def unread(self) -> list[str]:
        """The metadata of the architecture that were not asked for."""
        prefix = f"{self.form.architecture}."
        return [
            key.removeprefix(prefix)
            for key in self.metadata
            if key.startswith(prefix) and key.removeprefix(prefix) not in self.asked
        ]

    def read(self, name: str) -> np.ndarray:
        """Reads a tensor by its name in the file, dequantised to float32.

        Raises:
            InputError: The encoding is not supported, or the file has changed since it was opened.
        """
        tensor = self.tensors[name]
        try:
            raw = np.fromfile(self.path, np.uint8, tensor.size, offset=tensor.offset)
            values: np.ndarray = gguf.quants.dequantize(raw.reshape(math.prod(tensor.shape[:-1]), -1), tensor.kind)
        except NotImplementedError as error:
            raise InputError(
                f"{self.path}: tensor '{name}' is encoded as {tensor.kind.name}, which is not supported; "
                "use a file with another quantisation"
            ) from error
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: tensor '{name}' cannot be read ({error}); download it again") from error
        return values.reshape(tensor.shape)


def _read_header(path: Path) -> tuple[Mapping[str, Any], Mapping[str, GgufTensor]]:
    try:
        return read_header(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: not a readable file ({error.strerror})") from error
    except ValueError as error:
        reason = str(error).replace("\n", " ")
        raise InputError(f"{path}: truncated or not a GGUF file ({reason}); download it again") from error
