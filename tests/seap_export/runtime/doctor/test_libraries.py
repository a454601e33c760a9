"""Which NVIDIA libraries a provider is linked with, read from ELF files made here, and which can be loaded."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from seap_export.runtime.doctor.libraries import library_names, linked_libraries

#: Where the segment to load lies in the file, and where it is mapped.
OFFSET, BASE = 64, 0x40000


def elf(needed: Sequence[str], unused: str = "libcudart.so.12") -> bytes:
    """A shared library's header, one segment to load, a dynamic section; a name that nothing refers to, too."""
    table = b"\0" + b"".join(name.encode() + b"\0" for name in (*needed, unused))
    offsets = [table.index(name.encode() + b"\0") for name in needed]
    start = 64 + 2 * 56
    entries = [*((1, position) for position in offsets), (14, 1), (5, BASE + start - OFFSET), (0, 0), (1, 1)]
    dynamic = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    at = start + len(table)
    size = at + len(dynamic) - OFFSET
    header = (
        b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, *[0] * 3)
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, OFFSET, BASE, BASE, size, size, 4096)
    section = struct.pack("<IIQQQQQQ", 2, 6, at, BASE + at - OFFSET, 0, len(dynamic), len(dynamic), 8)
    return header + load + section + table + dynamic


@pytest.fixture
def providers(tmp_path: Path) -> Path:
    """CUDA as in ONNX Runtime 1.31, and TensorRT."""
    linked = {
        "cuda": ["libcublasLt.so.13", "libcuda.so.1", "libc.so.6"],
        "tensorrt": ["libnvinfer.so.10", "libcudnn.so.9", "libm.so.6"],
    }
    for name, needed in linked.items():
        (tmp_path / name).write_bytes(elf(needed))
    return tmp_path


def test_what_is_no_such_file_is_linked_with_nothing(tmp_path: Path) -> None:
    assert linked_libraries(tmp_path / "none") == []
    assert linked_libraries(tmp_path) == []
    for content in (b"", b"MZ" + bytes(100), elf(["a.so"])[:5] + b"\x02" + elf(["a.so"])[6:]):
        (tmp_path / "other").write_bytes(content)
        assert linked_libraries(tmp_path / "other") == []


def test_a_file_that_is_cut_off_breaks_nothing(tmp_path: Path) -> None:
    whole = elf(["libcublas.so.13"])
    for length in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        assert linked_libraries(tmp_path / "cut") in ([], ["libcublas.so.13"])


def test_nvidias_libraries_of_a_provider(providers: Path) -> None:
    """TensorRT stands before CUDA; cuDNN is optional where CUDA is not linked with it."""
    assert library_names("cuda", providers.joinpath) == {
        "libcublasLt.so.13": True, "libcuda.so.1": True, "libcudnn.so.9": False
    }  # fmt: skip
    assert library_names("tensorrt", providers.joinpath) == dict.fromkeys(
        ["libnvinfer.so.10", "libcudnn.so.9", "libcublasLt.so.13", "libcuda.so.1"], True
    )
    assert library_names("cpu", providers.joinpath) == {}


def test_the_installed_provider_needs_cublas_and_the_cuda_runtime() -> None:
    names = library_names("cuda")
    if not names:
        pytest.skip("this onnxruntime has no CUDA provider")
    assert {name.partition(".")[0] for name in names} >= {"libcublas", "libcublasLt", "libcudart", "libcudnn"}
