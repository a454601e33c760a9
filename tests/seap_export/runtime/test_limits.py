"""Templates and tokenizers that would take all memory, or forever, are stopped."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from support.editing import set_json
from support.product import load_tokenizer
from support.tokenizers import write_byte_level

from seap_export.common import chat_template
from seap_export.common.chat_template import TemplateWorkError
from seap_export.errors import ArtifactError, InputError
from seap_export.runtime import limits
from seap_export.runtime.chat import ChatTemplate
from seap_export.runtime.files import encode, refuse_excess

_USER = [{"role": "user", "content": "user"}]
_BIG = "{% set big = 'a' * 90000 %}"
_LOOP = "{% for i in range(99999) %}"
_END = "{% endfor %}"


ATTACKS = {
    "loops": f"{_LOOP}{_LOOP}{_END}{_END}",
    "a macro in itself": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(90) }}",
    "text times a number": "{{ 'a' * 10 ** 10 }}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "a long text": f"{_BIG}{{% for i in range(200) %}}{{{{ big }}}}{_END}",
    "a list that holds itself twice, 60 times": "{% set n = namespace(x=['a']) %}{% for i in range(60) %}"
    "{% set n.x = [n.x, n.x] %}{% endfor %}{{ raise_exception(n.x) }}",
    "a deep template": "{% if 0 %}" + "{% elif 0 %}" * 8000 + "{% endif %}",
}


@pytest.mark.parametrize("template", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_template_that_computes_too_much_is_stopped(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "_SECONDS", 1)
    with pytest.raises(TemplateWorkError, match="computes more than a conversation needs"):
        ChatTemplate({"default": template}, {}).render(_USER)
    assert ChatTemplate({"default": "{{ messages[0].content }}"}, {}).render(_USER) == "user"


@pytest.mark.parametrize(
    "template",
    ["{{ lipsum(10 ** 7) }}", "{% block b %}{{ self.b() }}{{ self.b() }}{% endblock %}", f"{{{{ {'(' * 9000}1 }}}}"],
    ids=["lipsum", "a block without end", "brackets"],
)
def test_others_fail_as_templates_do(template: str) -> None:
    with pytest.raises(InputError, match="refuses the messages"):
        ChatTemplate({"default": template}, {}).render(_USER)


def replacing(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def table(longest: int) -> dict[str, Any]:
    content = (4).to_bytes(4, "little") + bytes(4) + b"a\0" + b"b" * longest + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(content).decode()}


def sequence(name: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", name: list(parts)}


B33 = replacing({"String": "a"}, "b" * 33)
ITSELF = {"Sequence": {"id": "A", "type_id": 0}}


#: Normalizers of known models: Llama 2, T5 with the longest text of its map, ALBERT.
KNOWN = [
    [{"type": "Prepend", "prepend": "▁"}, replacing({"String": " "}, "▁")],
    [table(33), replacing({"Regex": " {2,}"}, "▁")],
    [replacing({"String": "``"}, '"'), {"type": "NFKD"}, {"type": "Lowercase"}, table(33), {"type": "Strip"}],
]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        *(({"normalizer": sequence("normalizers", *parts)}, "") for parts in KNOWN),
        ({"normalizer": replacing({"String": "a"}, "b" * 1025)}, "limit"),
        ({"normalizer": replacing({"String": ""}, "b" * 1024)}, "limit"),
        ({"normalizer": table(1025)}, "limit"),
        ({"normalizer": sequence("normalizers", *[{"type": "ByteLevel"}] * 11)}, "limit"),
        ({"pre_tokenizer": sequence("pretokenizers", *[{"type": "Metaspace", "replacement": "▁"}] * 4)}, "limit"),
        ({"normalizer": B33, "pre_tokenizer": sequence("pretokenizers", *[{"type": "ByteLevel"}] * 5)}, "limit"),
        ({"normalizer": B33, "post_processor": {"type": "TemplateProcessing", "single": [ITSELF] * 32}}, "limit"),
        ({"decoder": sequence("decoders", B33, B33)}, "limit"),
        ({"model": {"type": "WordPiece", "max_input_chars_per_word": 10**9}}, "limit"),
    ],
)
def test_what_makes_too_much_of_a_text_is_refused(values: dict[str, Any], reason: str) -> None:
    assert reason in limits.excess(values)
    assert bool(limits.excess(values)) == bool(reason)


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
