"""GGUF files made to cost time or memory, or to lead out of the file: exit code 8, within a second and a gigabyte."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from robustness.commands import EXPORT
from support.processes import Tool

U8, U32, F32, STRING, ARRAY, U64 = 0, 4, 6, 8, 9, 10


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key.encode()) + struct.pack("<I", kind) + value


def whole(key: str, value: int) -> bytes:
    return entry(key, U32, struct.pack("<I", value))


def array(item: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", item, count) + items


def tensor(name: str, dimensions: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return text(name.encode()) + sizes + struct.pack("<IQ", kind, offset)


def file(
    entries: Sequence[bytes] = (), tensors: Sequence[bytes] = (), num_tensors: int = 0, num_entries: int = 0
) -> bytes:
    """A file with 4 KiB behind its header; the numbers replace those in it."""
    head = b"GGUF" + struct.pack("<IQQ", 3, num_tensors or len(tensors), num_entries or len(entries))
    return head + b"".join([*entries, *tensors]) + bytes(4096)


def model(*tensors: bytes, **values: int) -> bytes:
    """A header whose metadata describe a small model, with an embedding of 4 tokens, 32 wide, and further tensors."""
    sizes = {
        "block_count": 1, "embedding_length": 32, "feed_forward_length": 32, "context_length": 64,
        "attention.head_count": 2, "attention.head_count_kv": 2, **values,
    }  # fmt: skip
    entries = [entry("general.architecture", STRING, text(b"llama"))]
    entries += [whole(f"llama.{key}", value) for key, value in sizes.items()]
    return file(entries, [tensor("token_embd.weight", (32, 4)), *tensors])


FILES = {
    "2**60 tensors": file(num_tensors=2**60),
    "2**40 metadata entries": file(num_entries=2**40),
    "a key of 2**63 characters": file([struct.pack("<Q", 2**63)]),
    "an array of 2**60 bytes": file([entry("a", ARRAY, array(U8, 2**60))]),
    "an array whose size overflows to 0": file([entry("a", ARRAY, array(U64, 2**61))]),
    "an array of 2**60 texts": file([entry("a", ARRAY, array(STRING, 2**60))]),
    "arrays in arrays": file([entry("a", ARRAY, b"".join(array(ARRAY, 1) for _ in range(200)))]),
    "a million arrays": file([entry("a", ARRAY, array(ARRAY, 2**20, array(U8, 0) * 300))]),
    "a key twice": file([whole("a", 1), whole("a", 2)]),
    "a type that does not exist": file([entry("a", 77, b"")]),
    "text that is not UTF-8": file([entry("a", STRING, text(b"\xff\xfe"))]),
    "alignment 0": file([whole("general.alignment", 0)]),
    "alignment 2**31": file([whole("general.alignment", 2**31)], [tensor("a", (32,))]),
    "alignment in words": file([entry("general.alignment", STRING, text(b"wide"))]),
    "sizes that overflow to 0": file([], [tensor("a", (2**32, 2**32))]),
    "a size of 0": file([], [tensor("a", (0, 2**40))]),
    "no dimension": file([], [tensor("a", ())]),
    "a hundred dimensions": file([], [tensor("a", (1,) * 100)]),
    "a tensor beyond the file": file([], [tensor("a", (32,), offset=2**40)]),
    "an offset that overflows to the header": file([], [tensor("a", (32,), offset=2**64 - 64)]),
    "a tensor of unknown type": file([], [tensor("a", (32,), kind=999)]),
    "part of a block": file([], [tensor("a", (31,), kind=8)]),
    "a tensor twice": file([], [tensor("a", (32,)), tensor("a", (32,))]),
    "2**32 - 1 layers": model(block_count=2**32 - 1),
    "2**32 - 1 heads": model(**{"attention.head_count": 2**32 - 1, "attention.head_count_kv": 2**32 - 1}),
    "no heads": model(**{"attention.head_count": 0}),
    "too few tensors": model(),
    "a layer of 5001 digits": model(tensor(f"blk.{'9' * 5001}.attn_q.weight", (32, 32))),
}


@pytest.mark.parametrize("name", FILES)
def test_an_absurd_file_is_refused(tool: Tool, work: Path, name: str) -> None:
    (work / "m.gguf").write_bytes(FILES[name])
    tool(work, "export", "m.gguf", *EXPORT[2:], memory=2**30, timeout=20).refused(8, "m.gguf")
    assert not (work / "new").exists()


def test_a_text_of_a_gigabyte_is_not_read_and_many_large_arrays_are_not_unpacked(tool: Tool, work: Path) -> None:
    """Each array is within the limits; together they would become a hundred times as large in memory."""
    with (work / "m.gguf").open("wb") as stream:
        stream.write(file([entry("a", STRING, struct.pack("<Q", 10**9))])[:-4096])
        stream.truncate(2 * 10**9)
    tool(work, "export", "m.gguf", *EXPORT[2:], memory=2**28, timeout=20).refused(8, "256 MiB")
    arrays = [entry(f"a{number}", ARRAY, array(U8, 2_000_000, bytes(2_000_000))) for number in range(20)]
    (work / "m.gguf").write_bytes(file(arrays))
    tool(work, "export", "m.gguf", *EXPORT[2:], memory=2**29, timeout=20).refused(8, "array", "2000000")
