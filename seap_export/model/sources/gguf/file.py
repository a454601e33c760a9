"""A GGUF file: its metadata, family and tensors, which are dequantised one at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from seap_export.errors import InputError, MissingInput
from seap_export.model.families import Family, GgufForm, family_of_gguf, family_of_model_type
from seap_export.model.sources.gguf.header import GgufTensor, read_header

#: The family of a model in an architecture that serves several; this package writes it.
MODEL_TYPE_KEY = "seap.model_type"


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file; does not keep the file mapped."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    family: Family
    form: GgufForm
    read_keys: set[str] = field(default_factory=set, compare=False)

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Reads and checks the header."""
        metadata, tensors = _read_header(path)
        if metadata.get("split.count", 0) not in (0, 1):
            raise InputError(
                f"{path}: one of {metadata['split.count']} shards; join them with 'llama-gguf-split --merge' first"
            )
        return cls(path, metadata, tensors, *_family(metadata))

    def get(self, key: str, default: Any = None) -> Any:
        """The metadata value `{architecture}.{key}`, or the default if it is missing."""
        self.read_keys.add(key)
        return self.metadata.get(f"{self.form.architecture}.{key}", default)

    def whole(self, key: str, default: int | None = None) -> int:
        """Like `get`, for a positive whole number, which may be given for each layer."""
        value = self.get(key, default)
        if isinstance(value, list) and len(set(value)) == 1:
            value = value[0]
        if isinstance(value, list):
            raise InputError(f"{self.path}: '{key}' differs by layer; give a model of uniform layers")
        return self._positive(key, value)

    def by_layer(self, key: str, default: Sequence[int] | None = None) -> list[int]:
        """Like `whole`, for the numbers of all layers, which may differ where the architecture has such layers."""
        layers, value = self.layers, self.get(key, default)
        if not isinstance(value, list) or not self.is_uneven:
            return [self.whole(key, None if default is None else default[0])] * layers
        if len(value) != layers:
            raise InputError(
                f"{self.path}: metadata '{key}' has {len(value)} numbers for {layers} layers; download it again"
            )
        return [self._positive(key, number) for number in value]

    @property
    def layers(self) -> int:
        number = self.whole("block_count")
        if number > len(self.tensors):
            raise InputError(
                f"{self.path}: damaged: {number} layers in {len(self.tensors)} tensors; download it again"
            )
        return number

    @property
    def is_uneven(self) -> bool:
        """Whether its architecture has layers of several shapes."""
        return self.form.architecture == self.form.uneven

    def _positive(self, key: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(
                f"{self.path}: metadata '{key}' must be a positive whole number, not {value!r}; download it again"
            )
        return value

    def number(self, key: str, default: float) -> float:
        """Like `get`, for a number, as the shortest decimal of its float32 value: 1e-05 for 9.999999747378752e-06."""
        value = self.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise InputError(f"{self.path}: metadata '{key}' must be a number, not {value!r}; download it again")
        return float(str(np.float32(value)))

    def unread(self) -> list[str]:
        """The keys of the architecture's metadata that were not read."""
        prefix = f"{self.form.architecture}."
        return [
            key.removeprefix(prefix)
            for key in self.metadata
            if key.startswith(prefix) and key.removeprefix(prefix) not in self.read_keys
        ]

    def read(self, name: str) -> np.ndarray:
        """Reads a tensor by its name in the file, dequantised to float32."""
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


def _family(metadata: Mapping[str, Any]) -> tuple[Family, GgufForm]:
    """The family of a file, and how it holds a model of it."""
    architecture = str(metadata.get("general.architecture", "(not stated)"))
    family = family_of_gguf(architecture)
    assert family.gguf is not None  # it was found by its architecture
    if architecture != family.gguf.uneven:
        return family, family.gguf
    form = replace(family.gguf, architecture=architecture)
    if MODEL_TYPE_KEY in metadata:
        family = family_of_model_type(str(metadata[MODEL_TYPE_KEY]))
    permuted = form.rotary_rows_permuted and not family.rotation.interleaved
    return family, replace(form, rotary_rows_permuted=permuted)


def _read_header(path: Path) -> tuple[Mapping[str, Any], Mapping[str, GgufTensor]]:
    try:
        return read_header(path)
    except OSError as error:
        raise MissingInput(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except ValueError as error:
        reason = str(error).replace("\n", " ")
        raise InputError(f"{path}: truncated or not a GGUF file ({reason}); download it again") from error
