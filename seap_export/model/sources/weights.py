"""Reads weights a few tensors at a time, never a whole model at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open

from seap_export.common.json_file import read_json
from seap_export.errors import InputError
from seap_export.model.sources.mxfp4 import BLOCKS, SCALES, decoded, decoded_shapes

#: The types of weights, and in which a copy of them is stored.
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float32}
#: The longest header that is parsed (16 MiB); this is enough for a hundred thousand tensors.
_MAX_HEADER_BYTES = 16 * 2**20
#: The beginning of a file of Git LFS that was not downloaded.
_POINTER = b"version "


class WeightReader(Protocol):
    """Reads the weights of a model from safetensors files or a GGUF file."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor; reads no data."""
        ...

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Reads the named tensors to the CPU; `dtypes` has those to store them in."""
        ...

    def dtypes(self) -> dict[str, torch.dtype]:
        """The floating-point dtype in which a copy of each tensor is stored; reads no data."""
        ...


class Difference(str):
    """A line about a tensor or a node that is not the model's.

    Attributes:
        name: Name of the tensor or node.
    """

    name: str

    def __new__(cls, name: str, line: str) -> Difference:
        """Makes a line about the tensor or node `name`."""
        difference = super().__new__(cls, line)
        difference.name = name
        return difference


class SafetensorsReader:
    """Reads a model folder with one safetensors file, or with several and an index.

    A file is mapped only during a `read`, so that the memory of finished layers is released. Weights in MXFP4 are read
    as what they stand for.
    """

    def __init__(self, folder: Path) -> None:
        """Raises `InputError` if a file is missing, truncated or no safetensors file, or two disagree on a tensor."""
        self.files: tuple[Path, ...] = _weight_files(folder)
        self._file_of: dict[str, Path] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        types: dict[str, str] = {}
        for file in self.files:
            with _open(file) as handle:
                for name in handle.keys():  # noqa: SIM118 - not a dict
                    if name in self._file_of:
                        _refuse_other_values(name, self._file_of[name], file)
                    entry = handle.get_slice(name)
                    self._file_of[name] = file
                    shapes[name] = tuple(entry.get_shape())
                    is_packed = entry.get_dtype() == "U8" and name.endswith((BLOCKS, SCALES))
                    types[name] = "BF16" if is_packed else entry.get_dtype()
        unknown = sorted(set(types.values()) - _DTYPES.keys())
        if unknown:
            raise InputError(f"{folder}: weights of type {', '.join(unknown)} are not supported; use float weights")
        self._shapes = decoded_shapes(shapes)
        self._dtypes = {name: _DTYPES[types.get(name, "BF16")] for name in self._shapes}

    def dtypes(self) -> dict[str, torch.dtype]:
        """The dtype of each tensor in the file; float32 if it is float64, and bfloat16 if it is in MXFP4."""
        return dict(self._dtypes)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self._shapes)

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Reads the named tensors, mapped from the file if their dtype needs no conversion."""
        parts = {name: (name,) if name in self._file_of else (name + BLOCKS, name + SCALES) for name in names}
        stored = [part for of_name in parts.values() for part in of_name]
        tensors: dict[str, torch.Tensor] = {}
        for file in dict.fromkeys(self._file_of[part] for part in stored):
            with _open(file) as handle:
                tensors |= {part: handle.get_tensor(part) for part in stored if self._file_of[part] == file}
        return {
            name: (decoded(*(tensors[part] for part in of_name)) if len(of_name) > 1 else tensors[name]).to(
                self._dtypes[name]
            )
            for name, of_name in parts.items()
        }


def main_dtype(reader: WeightReader) -> torch.dtype:
    """The dtype of most of a model's weights."""
    numbers: Counter[torch.dtype] = Counter()
    shapes = reader.shapes()
    for name, dtype in reader.dtypes().items():
        numbers[dtype] += math.prod(shapes[name])
    return numbers.most_common(1)[0][0]


def _weight_files(folder: Path) -> tuple[Path, ...]:
    # The index must name files in the folder, but these may be links to anywhere: the hub's cache consists of links to
    # its blobs, and large weights are often linked from another disk. A linked file is only read, as tensors of the
    # declared names and shapes.
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists() or not index.exists():  # beside it, an index is a leftover, which transformers ignores, too
        return (whole,)
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name or name == ".."]
    except (InputError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{index}: not a valid weight index; download the model again") from error
    if outside:
        raise InputError(f"{index}: '{outside[0]}' points outside the model folder; download the model again")
    return tuple(folder / name for name in names)


def _refuse_other_values(name: str, one: Path, other: Path) -> None:
    with _open(one) as first, _open(other) as second:
        if not torch.equal(first.get_tensor(name), second.get_tensor(name)):
            raise InputError(
                f"{other}: tensor '{name}' has other values than in {one.name}; download the model again, or save it "
                "again with transformers"
            )


def _open(file: Path) -> safe_open:
    if not file.is_file():
        folder = file.parent
        if next(folder.glob("pytorch_model*.bin"), None) is not None:
            copy = f"M.from_pretrained('{folder}', dtype='auto').save_pretrained('{folder}')"
            raise InputError(
                f"{folder}: its weights are in pytorch_model.bin only, which is not read, since such files can run "
                "code; if you trust it, write them as safetensors beside it: "
                f'python -c "from transformers import AutoModelForCausalLM as M; {copy}"'
            )
        refuse_adapter(folder)
        raise InputError(f"{file}: weights are missing; a model folder needs safetensors files")
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
        if start == _POINTER:
            raise InputError(f"{file}: a pointer of Git LFS, not the weights; run 'git lfs pull' in its folder")
        header = int.from_bytes(start, "little")
        if header > _MAX_HEADER_BYTES:
            raise SafetensorError(f"it declares a header of {header} bytes")
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: truncated or not a safetensors file ({error}); download it again") from error


def refuse_adapter(folder: Path) -> None:
    """Raises `InputError` for a folder that holds an adapter of a model in place of the model."""
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{folder}: an adapter, not a whole model; merge it into its base model (merge_and_unload of peft), and "
            "give that"
        )


def check_weights(
    reader: WeightReader, expected: dict[str, tuple[int, ...]], where: str, buffers: tuple[str, ...] = ()
) -> None:
    """Rejects weights that do not match the config exactly.

    Buffers of old checkpoints, such as rotary frequencies and the family's own, whose names end with one of `buffers`,
    and an LM head stored besides a tied embedding, are ignored: they hold no information.

    Raises:
        InputError: A tensor is missing, has another shape or is not part of the family.
    """
    shapes = reader.shapes()
    for name, shape in expected.items():
        if name not in shapes:
            raise InputError(
                f"{where}: config and weights disagree: tensor '{name}' is missing; download the model again"
            )
        if shapes[name] != shape:
            raise InputError(
                f"{where}: config and weights disagree: '{name}' is {list(shapes[name])}, not {list(shape)}; "
                "download the model again"
            )
    ignored = ("rotary_emb.inv_freq", "lm_head.weight", *buffers)
    extra = [name for name in shapes if name not in expected and not name.endswith(ignored)]
    if extra:
        raise InputError(
            f"{where}: config and weights disagree: tensor '{extra[0]}' is not part of the family; if training left "
            "it, save the model again with transformers"
        )
