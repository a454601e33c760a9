"""Corpora and task files made to exhaust memory, to hang, or to reach what is not theirs."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from support.exports import Outcome
from support.processes import Tool

from seap_export.corpus import read_records
from seap_export.errors import InputError

RunIt = Callable[..., Outcome]


def export(file: str) -> tuple[str, ...]:
    return ("export", "m", "--task", f"a={file}", "--ratio", "0.2", "--out", "new", "--quiet")


@pytest.mark.parametrize("name", ["c.jsonl", "c.txt"])
@pytest.mark.parametrize("before", [b"", b'{"text": "one"}\n\n'], ids=["first line", "third line"])
def test_a_line_of_a_gigabyte_is_not_read(tool: Tool, work: Path, name: str, before: bytes) -> None:
    with (work / name).open("wb") as file:
        file.write(before + b'{"text": "')
        file.truncate(10**9)
    number = 3 if before else 1
    tool(work, *export(name), memory=2**28, timeout=20).refused(8, name, f"line {number}", "16 MiB")


def test_a_task_file_of_a_gigabyte_is_not_read(tool: Tool, work: Path) -> None:
    with (work / "c.toml").open("wb") as file:
        file.truncate(10**9)
    tool(work, *export("c.toml"), memory=2**28, timeout=20).refused(8, "c.toml", "16 KiB")


CORPORA: dict[str, tuple[str, bytes]] = {
    "100k brackets": ("c.jsonl", b'{"text": ' + b"[" * 100_000),
    "100k balanced brackets": ("c.jsonl", b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "100k objects": ("c.jsonl", b'{"a": ' * 100_000 + b"1" + b"}" * 100_000),
    "a number of 100k digits": ("c.jsonl", b'{"text": ' + b"9" * 100_000 + b"}"),
    "NaN": ("c.jsonl", b'{"text": NaN}'),
    "Infinity": ("c.jsonl", b'{"text": Infinity}'),
    "-Infinity": ("c.jsonl", b'{"text": -Infinity}'),
    "a number that overflows": ("c.jsonl", b'{"text": 1e999}'),
    "half a character": ("c.jsonl", b'{"text": "\xf0\x9f"}'),
    "half a surrogate pair": ("c.jsonl", b'{"text": "\\ud800"}'),
    "NUL in JSON": ("c.jsonl", b'{"text": "a\0b"}'),
    "NUL in text": ("c.txt", b"one\n\ntwo\0three\n"),
    "UTF-16": ("c.txt", "one\n\ntwo\n".encode("utf-16-le")),
    "UTF-16 with a mark": ("c.txt", "one\n\ntwo\n".encode("utf-16")),
    "Latin-1": ("c.md", b"caf\xe9\n"),
    "an object with no text": ("c.jsonl", b'{"text": {"text": "x"}}'),
    "Parquet of its name only": ("c.parquet", b"PAR1PAR1"),
    "Parquet with a footer of 2 GB": ("c.parquet", b"PAR1" + bytes(64) + b"\xff\xff\xff\x7fPAR1"),
    "Parquet with a footer of noise": ("c.parquet", b"PAR1" + random.Random(0).randbytes(999) + b"\xe7\x03\0\0PAR1"),
    "Parquet that is text": ("c.parquet", b"{}" * 999),
}


@pytest.mark.parametrize("name", CORPORA)
def test_a_hostile_corpus_is_refused(run: RunIt, work: Path, name: str) -> None:
    file, content = CORPORA[name]
    (work / file).write_bytes(content)
    message = run(*export(file)).refused(8, file)
    assert len(message) < 500
    assert not (work / "new").exists()


TASKS = {
    "nested arrays": "corpus = " + "[" * 16_000,
    "nested tables": "corpus = " + "{a=" * 5_000,
    "a long dotted key": ".".join("a" * 8_000) + " = 1",
    "headers of a long key": "[" + ".".join("a" * 4_000) + "]\n" + "[" + ".".join("a" * 4_000) + ".b]\n",
    "a number of 16k digits": "corpus = " + "9" * 16_000,
    "no UTF-8": "corpus = '\udcff'",
    "a corpus that is a number": "corpus = 5\nprompt = '{text}'",
    "a corpus that is a device": "corpus = '/dev/zero'\nprompt = '{text}'",
    "a corpus that is the task": "corpus = 'c.toml'\nprompt = '{text}'",
    "a corpus with NUL in its name": "corpus = \"a\\u0000.jsonl\"\nprompt = '{text}'",
    "a prompt of a gigabyte": "corpus = 'a.jsonl'\nprompt = '{text:>1000000000}'",
    "a prompt that looks into Python": "corpus = 'a.jsonl'\nprompt = '{text.__class__.__mro__}'",
    "a prompt that calls": "corpus = 'a.jsonl'\nprompt = '{text!r}'",
    "an index beyond everything": "corpus = 'a.jsonl'\nprompt = '{text[" + "9" * 9000 + "]}'",
    "braces": "corpus = 'a.jsonl'\nprompt = '" + "{" * 15_001 + "'",
    "code": "corpus = 'a.jsonl'\nprompt = '{text}'\nrun = 'rm -rf /'",
}


@pytest.mark.parametrize("name", TASKS)
def test_a_hostile_task_file_is_refused(tool: Tool, work: Path, name: str) -> None:
    (work / "c.toml").write_bytes(TASKS[name].encode("utf-8", "surrogateescape"))
    is_no_file = "NUL" in name or "device" in name
    message = tool(work, *export("c.toml"), memory=2**30, timeout=20).refused(2 if is_no_file else 8)
    assert any(name in message for name in ("c.toml", "a.jsonl", "a\0.jsonl", "/dev/zero"))
    assert not (work / "new").exists()


def test_a_number_that_is_none_is_let_be_where_no_template_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": "x", "score": NaN}')
    assert [record["text"] for record in read_records(tmp_path / "c.jsonl")] == ["x"]


def test_a_damaged_parquet_file_raises_nothing_but_input_errors(tmp_path: Path) -> None:
    chance, path, messages = random.Random(0), tmp_path / "c.parquet", []
    table = pyarrow.table({"text": [f"text {i}" for i in range(500)], "list": [[i, i + 1] for i in range(500)]})
    pyarrow.parquet.write_table(table, path)
    sound = path.read_bytes()
    for _ in range(200):
        damaged = bytearray(sound)
        for _ in range(chance.choice((1, 1, 4))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            for _, _ in zip(read_records(path), range(1000), strict=False):
                pass
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert not any("\n" in message for message in messages)
