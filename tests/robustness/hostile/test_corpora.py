"""Corpora and task files made to exhaust memory, to hang, or to reach what is not theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.processes import Tool


def export(file: str) -> tuple[str, ...]:
    return ("export", "m", "--task", f"a={file}", "--ratio", "0.2", "--out", "new", "--quiet")


@pytest.mark.parametrize(("name", "before"), [("c.jsonl", b""), ("c.txt", b'{"text": "one"}\n\n')])
def test_a_line_or_a_task_file_of_a_gigabyte_is_not_read(tool: Tool, work: Path, name: str, before: bytes) -> None:
    with (work / name).open("wb") as file:
        file.write(before + b'{"text": "')
        file.truncate(10**9)
    number = 3 if before else 1
    tool(work, *export(name), memory=2**28, timeout=20).refused(8, name, f"line {number}", "16 MiB")
    (work / name).rename(work / "c.toml")
    tool(work, *export("c.toml"), memory=2**28, timeout=20).refused(8, "c.toml", "16 KiB")


TASKS = {
    "nested arrays": "corpus = " + "[" * 16_000,
    "nested tables": "corpus = " + "{a=" * 5_000,
    "a long dotted key": ".".join("a" * 8_000) + " = 1",
    "headers of a long key": "[" + ".".join("a" * 4_000) + "]\n" + "[" + ".".join("a" * 4_000) + ".b]\n",
    "a corpus that is a device": "corpus = '/dev/zero'\nprompt = '{text}'",
    "a corpus that is the task": "corpus = 'c.toml'\nprompt = '{text}'",
    "a corpus with NUL in its name": "corpus = \"a\\u0000.jsonl\"\nprompt = '{text}'",
    "a prompt of a gigabyte": "corpus = 'a.jsonl'\nprompt = '{text:>1000000000}'",
    "a prompt that looks into Python": "corpus = 'a.jsonl'\nprompt = '{text.__class__.__mro__}'",
    "an index beyond everything": "corpus = 'a.jsonl'\nprompt = '{text[" + "9" * 9000 + "]}'",
    "braces": "corpus = 'a.jsonl'\nprompt = '" + "{" * 15_001 + "'",
}


@pytest.mark.parametrize("name", TASKS)
def test_a_hostile_task_file_is_refused(tool: Tool, work: Path, name: str) -> None:
    (work / "c.toml").write_text(TASKS[name], "utf-8")
    is_no_file = "NUL" in name or "device" in name
    message = tool(work, *export("c.toml"), memory=2**30, timeout=20).refused(2 if is_no_file else 8)
    assert any(name in message for name in ("c.toml", "a.jsonl", "a\0.jsonl", "/dev/zero"))
    assert not (work / "new").exists()
