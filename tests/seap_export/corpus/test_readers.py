from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
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
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "FILE")


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".JSONL"])
def test_json_lines_give_their_objects(tmp_path: Path, suffix: str) -> None:
    path = _write(tmp_path, f"a{suffix}", '{"text": "é", "n": 1}\n\n  \n{"a": {"b": [null, true]}}')
    assert list(read_records(path)) == [{"text": "é", "n": 1}, {"a": {"b": [None, True]}}]


def test_byte_order_mark_and_windows_line_ends_are_no_part_of_a_text(tmp_path: Path) -> None:
    assert list(read_records(_write(tmp_path, "a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n"))) == [
        {"text": "one"},
        {"text": "two"},
    ]
    assert list(read_records(_write(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"text": "x"}\r\n'))) == [{"text": "x"}]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("one\ntwo\n", ["one", "two"]),
        ("one\ntwo", ["one", "two"]),
        ("\n\none\n  two\n\n\n", ["one", "  two"]),  # blank lines at either end separate nothing
        ("one\ntwo\n\nthree\n", ["one\ntwo", "three"]),
        ("\none\n \t\n\ntwo\nthree", ["one", "two\nthree"]),
    ],
)
@pytest.mark.parametrize("suffix", [".txt", ".md"])
def test_plain_text_is_split_at_blank_lines_or_else_at_lines(
    tmp_path: Path, suffix: str, content: str, texts: list[str]
) -> None:
    path = _write(tmp_path, f"a{suffix}", content)
    assert [record["text"] for record in read_records(path)] == texts


def test_parquet_gives_its_rows_over_several_batches(tmp_path: Path) -> None:
    rows = [
        {"question": f"q{i}", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "ok": i % 2 == 0, "n": None}
        for i in range(600)
    ]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=500)
    assert list(read_records(path)) == rows


@pytest.mark.parametrize(
    ("name", "content", "records"),
    [
        ("a.csv", "q,a\n1,2\n\n3,\n", [{"q": "1", "a": "2"}, {"q": "3", "a": ""}]),
        ("a.CSV", b'\xef\xbb\xbfq,a\r\n"one, ""two""\r\nthree",4', [{"q": 'one, "two"\nthree', "a": "4"}]),
        ("a.tsv", "q\ta\nx,y\tz\n", [{"q": "x,y", "a": "z"}]),
        ("a.csv", ",text\n0,x\n", [{"": "0", "text": "x"}]),  # the index of a data frame
        ("a.csv", '"text, cut"\nx\n', [{"text, cut": "x"}]),
    ],
)
def test_tables_give_their_rows(tmp_path: Path, name: str, content: str | bytes, records: list[Any]) -> None:
    assert list(read_records(_write(tmp_path, name, content))) == records


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("q,a\n1,2\n1,2,3\n", ["line 3", "3 fields", "names 2", "quotes"]),
        ("q,a\n1\n", ["line 2", "1 fields"]),
        ("q;a\n1;2\n", ["separated by ';'", ".tsv"]),  # as spreadsheets write it in much of Europe
        ("q\ta\n1\t2\n", ["separated by", "commas"]),
        ("q,q\n1,2\n", ["first row", "'q' twice"]),
        ("\nq,a\n1,2\n", ["first row is empty"]),
        ('q,a\n"1"x,2\n', ["line 2", "not readable as a table", "quotes"]),
        ('q,a\n"1,2\n', ["not readable as a table", "unexpected end"]),
        (b"q,a\n1,caf\xe9\n", ["line 2", "not UTF-8"]),
        ("q,a\n", ["empty"]),
        ('q,a\n"' + ("x" * (MAX_LINE_BYTES // 2) + "\n") * 3, ["line 3", "a row longer than 16 MiB", "quote"]),
    ],
)
def test_a_damaged_table_names_its_line(tmp_path: Path, content: str | bytes, words: list[str]) -> None:
    message = _error(_write(tmp_path, "a.csv", content))
    assert [word for word in ["FILE", *words] if word not in message] == []


def test_a_field_of_a_table_may_be_as_long_as_a_line(tmp_path: Path) -> None:
    longest = "x" * (MAX_LINE_BYTES - 2)
    assert list(read_records(_write(tmp_path, "a.csv", f"q,a\n{longest},y\n"))) == [{"q": longest, "a": "y"}]


def test_records_are_streamed(tmp_path: Path) -> None:
    records: Iterator[dict[str, Any]] = read_records(_write(tmp_path, "a.jsonl", '{"text": "x"}\nbroken'))
    assert next(records) == {"text": "x"}
    with pytest.raises(InputError, match="line 2"):
        next(records)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "x"}\n{"text": }\n', "Expecting value at column 10"),
        ('{"text": "x"}\n{"text"', "Expecting ':' delimiter at column 8"),
    ],
)
def test_bad_json_names_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = _write(tmp_path, "a.jsonl", content)
    assert _error(path).startswith(f"FILE, line 2: not JSON ({message}); ")


@pytest.mark.parametrize(
    "content", ['[\n {"text": "x"},\n {"text": "é"}\n]\n', b'\xef\xbb\xbf\n [{"text": "x"}, {"text": "\xc3\xa9"}]']
)
def test_a_json_list_gives_its_entries(tmp_path: Path, content: str | bytes) -> None:
    assert list(read_records(_write(tmp_path, "a.json", content))) == [{"text": "x"}, {"text": "é"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "x"}, 5]', "FILE, entry 2: expected a JSON object, not a number; "),
        ('[{"text": "x"}', "FILE: not a readable JSON list (Expecting ',' delimiter"),
        ('[{"text": "\\ud800"}]', "FILE: not a readable JSON list ("),
        ("[]", "FILE: the corpus is empty; "),
        ("[" * 200_000, "FILE: not a readable JSON list ("),
    ],
)
def test_a_damaged_json_list_is_refused(tmp_path: Path, content: str, message: str) -> None:
    assert _error(_write(tmp_path, "a.json", content)).startswith(message)


def test_a_json_list_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seap_export.corpus.readers.MAX_JSON_BYTES", 10)
    assert "a JSON list of more than" in _error(_write(tmp_path, "a.json", '[{"text": "x"}]'))


@pytest.mark.parametrize(
    ("line", "kind"),
    [("[1]", "a list"), ('"x"', "a string"), ("null", "null"), ("1.5", "a number"), ("true", "a truth value")],
)
def test_line_without_object_is_refused(tmp_path: Path, line: str, kind: str) -> None:
    path = _write(tmp_path, "a.jsonl", f'{{"text": "x"}}\n{line}\n')
    assert _error(path).startswith(f"FILE, line 2: expected a JSON object, not {kind}; ")


@pytest.mark.parametrize("line", ['{"n": ' + "9" * 5000 + "}", '{"n": ' + "[" * 200_000])
def test_json_beyond_the_limits_of_python_is_refused(tmp_path: Path, line: str) -> None:
    message = _error(_write(tmp_path, "a.jsonl", line))
    assert message.startswith("FILE, line 1: not readable as JSON (")
    assert message.endswith("); correct or drop the line")


def test_half_a_surrogate_pair_is_refused_but_a_whole_one_is_read(tmp_path: Path) -> None:
    whole = _write(tmp_path, "a.jsonl", '{"text": "\\ud83d\\ude00"}')
    assert list(read_records(whole)) == [{"text": "😀"}]
    half = _write(tmp_path, "b.jsonl", '{"text": "\\uD83D"}')
    assert _error(half) == (
        "FILE, line 1: not readable as JSON ('utf-8' codec can't encode character '\\ud83d' in position 10: "
        "surrogates not allowed); correct or drop the line"
    )


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_other_encoding_is_refused(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, name, b'{"text": "x"}\n{"text": "caf\xe9"}\n')
    assert _error(path) == "FILE, line 2: not UTF-8; save the file as UTF-8 text"


@pytest.mark.parametrize("line_end", [b"", b"\n", b"\r\n"])
def test_line_may_be_16_mib_long_but_no_longer(tmp_path: Path, line_end: bytes) -> None:
    longest = _write(tmp_path, "a.txt", b"x" * MAX_LINE_BYTES + line_end)
    assert [len(record["text"]) for record in read_records(longest)] == [16 * 2**20]
    longer = _write(tmp_path, "a.txt", b"y\n" + b"x" * (MAX_LINE_BYTES + 1) + line_end)
    assert _error(longer) == "FILE, line 2: a line longer than 16 MiB; split it into shorter texts"


def test_plain_text_of_many_lines_may_not_be_longer_than_a_line(tmp_path: Path) -> None:
    half = b"x" * (MAX_LINE_BYTES // 2)
    longest = b"one\n\n" + half + b"\n" + half[1:] + b"\n"
    texts = [record["text"] for record in read_records(_write(tmp_path, "a.txt", longest))]
    assert [len(text) for text in texts] == [3, 16 * 2**20]
    assert (
        _error(_write(tmp_path, "b.txt", longest + b"y\n"))
        == "FILE, line 5: a text longer than 16 MiB; separate texts by blank lines"
    )


@pytest.mark.parametrize("content", ["", "\n \n"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_empty_file_is_refused(tmp_path: Path, name: str, content: str) -> None:
    assert _error(_write(tmp_path, name, content)) == "FILE: the corpus is empty; it needs at least one text"


def test_parquet_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), path)
    assert _error(path) == "FILE: the corpus is empty; it needs at least one text"


@pytest.mark.parametrize("cut", ["end", "middle", "all", "no parquet"])
def test_damaged_parquet_is_refused(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "a.parquet"
    # random-looking texts, so that the pages are larger than the footer
    texts = [str(i**9 % 1_000_003) * 9 for i in range(3000)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, compression="none", use_dictionary=False)
    content = path.read_bytes()
    damaged = {
        "end": content[:-5],
        "middle": content[:50] + content[5000:],  # the footer is whole, the pages it points to are not
        "all": b"",
        "no parquet": b'{"text": "x"}\n' * 9,
    }
    path.write_bytes(damaged[cut])
    message = _error(path)
    assert message.startswith("FILE: not a readable Parquet file (")
    assert "download" in message


def test_what_is_no_corpus_is_refused_before_it_is_read(tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(InputError) as by_check:
            check_corpus(path)
        with pytest.raises(InputError) as by_read:
            read_records(path)
        assert str(by_check.value) == str(by_read.value)
        return str(by_check.value).replace(str(tmp_path), "DIR")

    (tmp_path / "folder.jsonl").mkdir()
    assert refusal(tmp_path / "a.jsonl") == "DIR/a.jsonl: no such file; give the path of a corpus file"
    assert refusal(tmp_path / "a\0.jsonl") == "DIR/a\0.jsonl: no such file; give the path of a corpus file"
    assert refusal(tmp_path / "folder.jsonl") == (
        "DIR/folder.jsonl: not a file; give the path of a corpus file, not of a folder"
    )
    assert refusal(_write(tmp_path, "a.xlsx", "x")) == (
        "DIR/a.xlsx: unknown kind of corpus '.xlsx'; convert it to one of .jsonl, .ndjson, .json, .parquet, .csv, "
        ".tsv, .txt, .md"
    )


def test_file_that_vanishes_is_reported(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.jsonl", "{}")
    records = read_records(path)
    path.unlink()
    with pytest.raises(InputError) as caught:
        next(records)
    assert str(caught.value) == (
        f"{path}: cannot be read (No such file or directory); check the file and its permissions"
    )


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = (
        "import sys, seap_export.corpus; print([m for m in ('torch', 'transformers', 'pyarrow') if m in sys.modules])"
    )
    root = Path(__file__).parents[3]
    output = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert output == "[]\n"
