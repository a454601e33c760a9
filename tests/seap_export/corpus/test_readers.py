from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from seap_export.corpus.readers import MAX_LINE_BYTES, check_corpus, read_records
from seap_export.errors import InputError


def _write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _error(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(read_records(path))
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


TWO = [{"text": "x"}, {"text": "é"}]


@pytest.mark.parametrize(
    ("name", "content", "records"),
    [
        ("a.jsonl", '{"text": "é"}\n\n  \n{"a": {"b": [null, true]}}', [{"text": "é"}, {"a": {"b": [None, True]}}]),
        ("a.JSON", b'\xef\xbb\xbf{"text": "\\ud83d\\ude00"}\r\n', [{"text": "😀"}]),
        ("a.json", '[\n {"text": "x"},\n {"text": "é"}\n]\n', TWO),
        ("a.json", b'\xef\xbb\xbf\n [{"text": "x"}, {"text": "\xc3\xa9"}]', TWO),
        ("a.csv", "q,a\n1,2\n\n3,\n", [{"q": "1", "a": "2"}, {"q": "3", "a": ""}]),
        ("a.CSV", b'\xef\xbb\xbfq,a\r\n"one, ""two""\r\nthree",4', [{"q": 'one, "two"\nthree', "a": "4"}]),
        ("a.tsv", "q\ta\nx,y\tz\n", [{"q": "x,y", "a": "z"}]),
        ("a.csv", ",text\n0,x\n", [{"": "0", "text": "x"}]),  # the index of a data frame
        ("a.csv", '"text, cut"\nx\n', [{"text, cut": "x"}]),
        ("a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n", [{"text": "one"}, {"text": "two"}]),
        ("a.txt", "\n\none\n  two\n\n\n", [{"text": "one"}, {"text": "  two"}]),  # blank lines at either end are none
        ("a.md", "\none\n \t\n\ntwo\nthree", [{"text": "one"}, {"text": "two\nthree"}]),
    ],
)
def test_a_file_gives_its_records(tmp_path: Path, name: str, content: str | bytes, records: list[Any]) -> None:
    assert list(read_records(_write(tmp_path, name, content))) == records


GOOD = '{"text": "x"}\n'


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "q,a\n1,2\n1,2,3\n", ["line 3", "3 fields", "names 2", "quotes"]),
        ("a.csv", "q;a\n1;2\n", ["separated by ';'", ".tsv"]),  # as spreadsheets write it in much of Europe
        ("a.csv", "q,q\n1,2\n", ["first row", "'q' twice"]),
        ("a.csv", "\nq,a\n1,2\n", ["first row is empty"]),
        ("a.csv", 'q,a\n"1"x,2\n', ["line 2", "not readable as a table", "quotes"]),
        ("a.csv", 'q,a\n"1,2\n', ["not readable as a table", "unexpected end"]),
        ("a.csv", "q,a\n", ["empty"]),
        ("a.csv", 'q,a\n"' + ("x" * (MAX_LINE_BYTES // 2) + "\n") * 3, ["line 3", "longer than 16 MiB", "quote"]),
        ("a.jsonl", GOOD + '{"text": }\n', ["line 2", "not JSON (Expecting value at column 10)"]),
        *(
            ("a.jsonl", f"{GOOD}{line}\n", ["line 2", f"expected a JSON object, not {kind}; "])
            for line, kind in {"[1]": "a list", '"x"': "a string", "null": "null", "true": "a truth value"}.items()
        ),
        ("a.jsonl", '{"n": ' + "9" * 5000 + "}", ["line 1", "not readable as JSON ("]),
        ("a.jsonl", '{"n": ' + "[" * 200_000, ["line 1", "not readable as JSON ("]),
        ("a.jsonl", '{"text": "\\uD83D"}', ["line 1", "not readable as JSON (", "surrogates not allowed"]),
        ("a.jsonl", b'{"text": "x"}\n{"text": "caf\xe9"}\n', ["line 2", "not UTF-8"]),
        ("a.txt", b"one\n\ntwo\0three\n", ["line 3"]),
        ("a.txt", "\n \n", ["the corpus is empty"]),
        ("a.json", '[{"text": "x"}, 5]', ["entry 2", "expected a JSON object, not a number"]),
        ("a.json", '[{"text": "x"}', ["not a readable JSON list (Expecting ',' delimiter"]),
        ("a.json", "[]", ["the corpus is empty"]),
        ("a.json", "[" * 200_000, ["not a readable JSON list ("]),
        (
            "a.parquet",
            b"PAR1" + bytes(64) + b"\xff\xff\xff\x7fPAR1",
            ["not a readable Parquet file ("],
        ),  # 2 GB of footer
        ("a.parquet", b"", ["not a readable Parquet file ("]),
    ],
)
def test_a_damaged_file_names_its_line(tmp_path: Path, name: str, content: str | bytes, words: list[str]) -> None:
    message = _error(_write(tmp_path, name, content))
    assert [word for word in ["FILE", *words] if word not in message] == []
    assert len(message) < 500


@pytest.mark.parametrize("line_end", [b"", b"\r\n"])
def test_a_text_may_be_16_mib_long_but_no_longer(tmp_path: Path, line_end: bytes) -> None:
    longest = b"x" * MAX_LINE_BYTES
    lines = _write(tmp_path, "a.txt", longest + line_end)
    assert [len(record["text"]) for record in read_records(lines)] == [16 * 2**20]
    assert "line 2: a line longer than" in _error(_write(tmp_path, "a.txt", b"y\n" + longest + b"x" + line_end))
    half = b"one\n\n" + longest[::2] + b"\n" + longest[3::2] + b"\n"
    texts = [record["text"] for record in read_records(_write(tmp_path, "a.txt", half))]
    assert [len(text) for text in texts] == [3, 16 * 2**20]
    assert "line 5: a text longer than 16 MiB" in _error(_write(tmp_path, "b.txt", half + b"y\n"))
    field = longest[2:].decode()
    assert list(read_records(_write(tmp_path, "a.csv", f"q,a\n{field},y\n"))) == [{"q": field, "a": "y"}]


def test_what_is_no_corpus_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "a.xlsx").touch()
    missing = dict.fromkeys(("a.jsonl", "a\0.jsonl"), "no such file")
    for name, words in {**missing, "folder.jsonl": "not a file", "a.xlsx": "unknown kind of corpus"}.items():
        for call in (check_corpus, read_records):
            with pytest.raises(InputError, match=words):
                call(tmp_path / name)
    monkeypatch.setattr("seap_export.corpus.readers.MAX_JSON_BYTES", 10)
    assert "a JSON list of more than" in _error(_write(tmp_path, "a.json", '[{"text": "x"}]'))


def test_records_are_streamed_and_a_file_that_vanishes_is_reported(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.jsonl", GOOD + "broken")
    records = read_records(path)
    assert next(records) == {"text": "x"}
    with pytest.raises(InputError, match="line 2"):
        next(records)
    records = read_records(path)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        next(records)


def test_parquet_gives_its_rows_over_several_batches_and_a_damaged_one_an_input_error(tmp_path: Path) -> None:
    more = {"choices": {"text": ["x", "y"], "label": ["A", "B"]}, "n": None}
    rows = [{"question": f"q{i**9 % 1_000_003}" * 9, "ok": i % 2 == 0, **more} for i in range(600)]
    chance, path, messages = random.Random(0), tmp_path / "a.parquet", []
    # so that the pages are larger than the footer
    uncompressed = {"compression": "none", "use_dictionary": False}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=500, **uncompressed)
    assert list(read_records(path)) == rows
    sound = path.read_bytes()
    for damaged in (sound[:-5], sound[:50] + sound[5000:]):  # where the footer is whole, the pages are not
        path.write_bytes(damaged)
        assert _error(path).startswith("FILE: not a readable Parquet file (")
    for _ in range(200):
        changed = bytearray(sound)
        for _ in range(chance.choice((1, 1, 4))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        path.write_bytes(changed)
        try:
            for _, _ in zip(read_records(path), range(1000), strict=False):
                pass
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert not any("\n" in message for message in messages)
