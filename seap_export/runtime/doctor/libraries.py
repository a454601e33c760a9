"""The NVIDIA libraries that an ONNX Runtime provider is linked with, and whether they can be loaded."""

from __future__ import annotations

import ctypes
import mmap
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from seap_export.common.providers import PROVIDERS

_NVIDIA = re.compile(r"lib(cu|nv)\w*\.so")
#: ONNX Runtime 1.31 loads it when an operator needs it: ReduceMin and ReduceMax of graphs for the CPU and of the
#: standard dialect. Attention uses it where it is there, on recent GPUs.
_CUDNN = "libcudnn.so.9"
_LOAD_SEGMENT, _DYNAMIC_SEGMENT = 1, 2
_END, _NEEDED, _STRING_TABLE = 0, 1, 5


@dataclass(frozen=True)
class Library:
    """One library."""

    name: str
    found: bool
    needed: bool = True


def provider_file(provider: str) -> Path:
    """The file of an ONNX Runtime provider; it exists only on Linux and if the provider was built."""
    return Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"


def library_names(provider: str, file_of: Callable[[str], Path] = provider_file) -> dict[str, bool]:
    """The NVIDIA libraries that the provider uses, and whether it needs each to start."""
    linked = [
        name
        for other in PROVIDERS[provider].library_files
        for name in linked_libraries(file_of(other))
        if _NVIDIA.match(name)
    ]
    names = dict.fromkeys(linked, True)
    return names | ({_CUDNN: False} if names and _CUDNN not in names else {})


def load_libraries(names: dict[str, bool], load: Callable[[str], Any] = ctypes.CDLL) -> list[Library]:
    """Tries to load each library; a broken one may crash the process."""
    return [Library(name, _loads(name, load), needed) for name, needed in names.items()]


def linked_libraries(path: Path) -> list[str]:
    """The libraries that a 64-bit ELF file is linked with, in file order; empty if it is not such a file.

    Searching the file for names would not do: the CUDA provider contains the names of several CUDA releases, which it
    tries in turn.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
            return _needed(image) if image[:6] == b"\x7fELF\x02\x01" else []
    except (OSError, ValueError, StopIteration, struct.error):
        return []


def _needed(image: mmap.mmap) -> list[str]:
    """Reads DT_NEEDED from the dynamic section (System V ABI, chapter 5)."""
    (table,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    # type, flags, offset, address, physical address, size in the file
    segments = [struct.unpack_from("<IIQQQQ", image, table + number * size) for number in range(count)]
    offset, length = next((segment[2], segment[5]) for segment in segments if segment[0] == _DYNAMIC_SEGMENT)
    entries = list(_entries(struct.iter_unpack("<qQ", image[offset : offset + length])))
    address = next(value for tag, value in entries if tag == _STRING_TABLE)
    load = next(
        segment
        for segment in segments
        if segment[0] == _LOAD_SEGMENT and segment[3] <= address < segment[3] + segment[5]
    )
    strings = address - load[3] + load[2]
    names = (strings + value for tag, value in entries if tag == _NEEDED)
    return [image[start : image.find(b"\0", start)].decode() for start in names]


def _entries(dynamic: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    for tag, value in dynamic:
        if tag == _END:
            return
        yield tag, value


def _loads(name: str, load: Callable[[str], Any]) -> bool:
    try:
        load(name)
    except OSError:
        return False
    return True
