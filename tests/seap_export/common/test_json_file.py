from __future__ import annotations

from pathlib import Path

import pytest

from seap_export.common.json_file import read_json, write_json
from seap_export.errors import InputError


def test_a_file_is_written_in_utf_8_and_ends_with_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    write_json(path, {"b": "\u00e9", "a": [1]}, sort_keys=True)
    assert path.read_bytes() == '{\n "a": [\n  1\n ],\n "b": "\u00e9"\n}\n'.encode()
    assert read_json(path) == {"a": [1], "b": "\u00e9"}


def test_a_file_that_holds_no_json_object_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"some\.json: no such file"):
        read_json(tmp_path / "some.json")
    for content, message in (
        (b"\xff\xfe\x00", "not a readable JSON"),
        (b"{", "not a readable JSON"),
        (b"[1]", "expected a JSON object"),
        (b'{"a": 1e999}', ".*the number 1e999"),
        (b'{"a": %b}' % (b"9" * 5001), ".*the number 9{20}"),
        (b'{"a": %b}' % (b"9" * 400), ".*the number 9{20}"),
        (b'{"a": -Infinity}', ".*the number -Infinity"),
    ):
        (tmp_path / "some.json").write_bytes(content)
        with pytest.raises(InputError, match=rf"some\.json: {message}.*; correct it, or download it again"):
            read_json(tmp_path / "some.json")
