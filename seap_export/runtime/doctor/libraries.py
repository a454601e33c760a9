"""The NVIDIA libraries that a provider of ONNX Runtime is linked with, and whether they can be loaded."""

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

__all__ = ["DRIVER_LIBRARY", "Library", "library_names", "linked_libraries", "load_libraries", "provider_file"]

#: Comes with the driver; all others can be installed by pip.
DRIVER_LIBRARY = "libcuda.so.1"
_NVIDIA = re.compile(r"lib(cu|nv)\w*\.so")
#: The providers that stand behind each and have libraries of their own.
_WITH = {"cpu": (), "cuda": ("cuda",), "tensorrt": ("tensorrt", "cuda")}
#: ONNX Runtime 1.31 loads it when an operator wants it; before, the provider was linked with it.
_CUDNN = "libcudnn.so.9"
_LOAD_SEGMENT, _DYNAMIC_SEGMENT = 1, 2
_END, _NEEDED, _STRING_TABLE = 0, 1, 5


@dataclass(frozen=True)
class Library:
    """One library.

    Attributes:
        name: As the dynamic loader looks for it.
        found: Whether it can be loaded.
        needed: Whether the provider cannot start without it.
    """

    name: str
    found: bool
    needed: bool = True


def provider_file(provider: str) -> Path:
    """ONNX Runtime's own library with that provider; it exists on Linux, where the provider was built."""
    return Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"


def library_names(provider: str, place: Callable[[str], Path] = provider_file) -> dict[str, bool]:
    """NVIDIA's libraries that the provider uses, each with whether it needs it to start.

    Args:
        provider: "cpu", "cuda" or "tensorrt".
        place: Where the library with a provider lies.

    Returns:
        Nothing where that cannot be told: not on Linux, or not built with the provider.
    """
    linked = [name for own in _WITH[provider] for name in linked_libraries(place(own)) if _NVIDIA.match(name)]
    names = dict.fromkeys(linked, True)
    return names | ({_CUDNN: False} if names and _CUDNN not in names else {})


def load_libraries(names: dict[str, bool], load: Callable[[str], Any] = ctypes.CDLL) -> list[Library]:
    """Tries each of them; one that is broken may take the process with it."""
    return [Library(name, _loads(name, load), needed) for name, needed in names.items()]


def linked_libraries(path: Path) -> list[str]:
    """The libraries that a 64-bit ELF file is linked with, in its order; none where it is no such file.

    Names that merely occur in the file say little: the CUDA provider holds those of several releases of CUDA, and
    tries one after the other.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
            return _needed(image) if image[:6] == b"\x7fELF\x02\x01" else []
    except (OSError, ValueError, StopIteration, struct.error):
        return []


def _needed(image: mmap.mmap) -> list[str]:
    """DT_NEEDED of the dynamic section (System V ABI, chapter 5)."""
    (table,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    # type, flags, offset, address, physical address, size in the file
    segments = [struct.unpack_from("<IIQQQQ", image, table + number * size) for number in range(count)]
    offset, length = next((own[2], own[5]) for own in segments if own[0] == _DYNAMIC_SEGMENT)
    entries = list(_entries(struct.iter_unpack("<qQ", image[offset : offset + length])))
    address = next(value for tag, value in entries if tag == _STRING_TABLE)
    load = next(own for own in segments if own[0] == _LOAD_SEGMENT and own[3] <= address < own[3] + own[5])
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
