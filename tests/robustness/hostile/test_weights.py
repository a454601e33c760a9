"""Weights that are none, or were made to do harm: refused in one line, nothing run, nothing read without end."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from robustness.commands import EXPORT
from support.exports import Run
from support.processes import Tool


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._marker),)


def test_the_payload_works(tmp_path: Path) -> None:
    """The tests below would otherwise prove nothing."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "marker")))
    assert (tmp_path / "marker").is_dir()


def poison(folder: Path, marker: Path, name: str) -> None:
    """Puts a pickle in the place of a model's weights."""
    (folder / "model.safetensors").unlink()
    if name == "model.safetensors":
        (folder / name).write_bytes(pickle.dumps(Payload(marker)))
    else:
        torch.save({"model.norm.weight": Payload(marker)}, folder / name)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.bin"])
def test_a_pickle_is_never_unpickled(run: Run, done: Path, work: Path, name: str) -> None:
    shutil.copytree(work / "m", work / "sound")
    poison(work / "m", work / "marker", name)
    (work / "a.toml").write_text('corpus = "a.jsonl"\nprompt = "{text}"\ncompletion = {choices = ["a"], label = "l"}')
    pickled = ("m: ", name, "python -c", "save_pretrained('m')")
    words = pickled if name == "pytorch_model.bin" else ("m/model.safetensors",)
    for command in (
        EXPORT,
        ("inspect", "m"),
        ("convert", "m", "--out", "new", "--quiet"),
        ("evaluate", "out/a-0.2", "--dense", "m"),
        ("evaluate", "m", "--zero-shot", "a=a.toml"),
    ):
        run(*command).refused(8, *words)
    if name != "model.bin":
        poison(done / "a-0.2" / "hf", work / "marker", name)
        for command in (
            ("validate", "--check", "parity"),
            ("validate",),
            ("evaluate", "--dense", "sound", "--runtime", "torch"),
        ):
            run(*command, "out/a-0.2", "--quiet").refused(7)
        run("convert", "out/a-0.2/hf", "--out", "new", "--quiet").refused(8)
    assert not (work / "marker").exists()
    assert not (work / "new").exists()


def raw(text: bytes, size: int | None = None) -> bytes:
    """A safetensors header; `size` replaces its length."""
    return (len(text) if size is None else size).to_bytes(8, "little") + text


def header(size: int | None = None, **tensors: Any) -> bytes:
    """One of 4 bytes of data."""
    return raw(json.dumps(tensors).encode(), size) + bytes(4)


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


GOOD = entry([1], 0, 4)
HEADERS = {
    "length 2**64 - 1": header(2**64 - 1, a=GOOD),
    "length beyond the file": header(5000, a=GOOD),
    "length 0": header(0),
    "no JSON": raw(b"{" * 64),
    "nested": raw(b'{"a":' + b"[" * 100_000),
    "a list": raw(b"[]" + b" " * 6),
    "no UTF-8": raw(b'{"\xff\xfe": 1}'),
    "offsets out of range": header(a=entry([2**20], 0, 2**22)),
    "negative offsets": header(a=entry([1], -4, 0)),
    "overlap": header(a=GOOD, b=GOOD),
    "a hole": header(a=entry([0], 0, 0), b=entry([0], 4, 4)),
    "shape and offsets differ": header(a=entry([2], 0, 4)),
    "shape overflows to 4": header(a=entry([2**62, 4, 2**62], 0, 4)),
    "negative shape": header(a=entry([-1], 0, 4)),
    "unknown dtype": header(a=entry([1], 0, 4, "F13")),
    "half a byte": header(a=entry([8], 0, 4, "F4")),
    "a key twice": raw(b'{"a":%b,"a":%b}' % ((json.dumps(GOOD).encode(),) * 2)) + bytes(4),
    "metadata of numbers": raw(b'{"__metadata__":{"a":1}}'),
}


def test_an_absurd_header_is_refused(run: Run, work: Path) -> None:
    for name, content in HEADERS.items():
        (work / "m" / "model.safetensors").write_bytes(content)
        message = run(*EXPORT).refused(8)
        assert message.startswith("m: ") or "m/model.safetensors" in message, name
        assert not (work / "new").exists(), name


def test_a_header_of_100_mb_is_not_even_parsed_and_a_quarter_of_a_million_tensors_are_no_model(
    tool: Tool, work: Path
) -> None:
    with (work / "m" / "model.safetensors").open("wb") as file:
        file.write((100 * 10**6).to_bytes(8, "little") + b'{"__metadata__":{"a":"')
        file.truncate(200 * 10**6)
    tool(work, *EXPORT, memory=2**28, timeout=20).refused(8, "header", "100000000")
    tensors = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(250_000))
    (work / "m" / "model.safetensors").write_bytes(raw(b"{" + tensors + b"}"))
    tool(work, *EXPORT, memory=2**30, timeout=60).refused(8, "config", "weights")
