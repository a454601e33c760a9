"""What a tokenizer.json makes of a text is counted without loading it, and what takes forever is left behind."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from support.editing import set_json
from support.product import load_tokenizer
from support.tokenizers import write_byte_level

from seap_export.errors import ArtifactError, InputError
from seap_export.runtime.files import encode, refuse_excess
from seap_export.runtime.limits import tokenizer as limits


def replacing(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def table(longest: int) -> dict[str, Any]:
    content = (4).to_bytes(4, "little") + bytes(4) + b"a\0" + b"b" * longest + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(content).decode()}


SPACES = replacing({"Regex": " {2,}"}, "▁")
#: Those of known models: Llama 2, T5 with the longest text of its map, ALBERT.
KNOWN = [
    [{"type": "Prepend", "prepend": "▁"}, replacing({"String": " "}, "▁")],
    [table(33), SPACES],
    [replacing({"String": "``"}, '"'), {"type": "NFKD"}, {"type": "Lowercase"}, table(33), {"type": "Strip"}],
]


@pytest.mark.parametrize("parts", KNOWN)
def test_normalizers_of_known_models_are_accepted(parts: list[dict[str, Any]]) -> None:
    assert limits.excess({"normalizer": {"type": "Sequence", "normalizers": parts}}) == ""


def sequence(name: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", name: list(parts)}


B33 = replacing({"String": "a"}, "b" * 33)
ITSELF = {"Sequence": {"id": "A", "type_id": 0}}


@pytest.mark.parametrize(
    "values",
    [
        {"normalizer": replacing({"String": "a"}, "b" * 1025)},
        {"normalizer": replacing({"String": ""}, "b" * 1024)},
        {"normalizer": table(1025)},
        {"normalizer": sequence("normalizers", *[{"type": "ByteLevel"}] * 11)},
        {"pre_tokenizer": sequence("pretokenizers", *[{"type": "Metaspace", "replacement": "▁"}] * 4)},
        {"normalizer": B33, "pre_tokenizer": sequence("pretokenizers", *[{"type": "ByteLevel"}] * 5)},
        {"normalizer": B33, "post_processor": {"type": "TemplateProcessing", "single": [ITSELF] * 32}},
        {"decoder": sequence("decoders", B33, B33)},
        {"model": {"type": "WordPiece", "max_input_chars_per_word": 10**9}},
    ],
)
def test_what_makes_too_much_of_a_text_is_refused(values: dict[str, Any]) -> None:
    assert "limit" in limits.excess(values)


def test_an_artifact_with_one_is_refused(tmp_path: Path) -> None:
    write_byte_level(tmp_path)
    refuse_excess(tmp_path / "tokenizer.json")
    set_json(tmp_path / "tokenizer.json", normalizer=replacing({"String": "a"}, "b" * 1025))
    for read in (refuse_excess, lambda path: load_tokenizer(path.parent)):
        with pytest.raises(ArtifactError, match=r"tokenizer\.json: makes .* limit is 1024"):
            read(tmp_path / "tokenizer.json")


def test_a_text_that_takes_forever_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expression that tries 10^5 steps and more from each of a thousand places; all of them would take minutes."""
    write_byte_level(tmp_path)
    split = {"type": "Split", "pattern": {"Regex": r"\w*\w*\w*\w*\d|q"}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False, "trim_offsets": True}
    set_json(tmp_path / "tokenizer.json", pre_tokenizer=sequence("pretokenizers", split, byte_level))
    tokenizer = load_tokenizer(tmp_path)
    monkeypatch.setattr(limits, "_SECONDS", 0.05)
    with pytest.raises(InputError, match=r"tokenizer\.json takes more than"):
        encode(tokenizer, ("a" * 60 + " ") * 5)
