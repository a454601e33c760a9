"""Templates and tokenizers that would take all memory, or forever, are stopped; work is counted, not timed."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from support.editing import set_json
from support.product import load_tokenizer
from support.tokenizers import write_byte_level

from seap_export.errors import ArtifactError, InputError
from seap_export.runtime.chat import ChatTemplate, TemplateWorkError
from seap_export.runtime.files import encode, refuse_excess
from seap_export.runtime.limits import budget
from seap_export.runtime.limits import tokenizer as limits

_USER = [{"role": "user", "content": "user"}]
_BIG = "{% set big = 'a' * 90000 %}"
_LOOP = "{% for i in range(99999) %}"
_END = "{% endfor %}"


def doubled(value: str, start: str = "'a'", use: str = "") -> str:
    """A template that replaces a value by one of twice its size, 60 times, and then uses it."""
    values = f"{{% set ns = namespace(x={start}, y={start}) %}}"
    return f"{values}{{% for i in range(60) %}}{value}{_END}{use}"


def nested(use: str, new: str = "[ns.x, ns.x]", start: str = "['a']") -> str:
    """A template in which a list holds another one twice, and that the same, which takes 60 lists and is 2^60 long."""
    other = new.replace("ns.x", "ns.y")
    return doubled(f"{{% set ns.x = {new} %}}{{% set ns.y = {other} %}}", start, use)


_TUPLES = ("(ns.x, ns.x)", "(1,)")
ATTACKS = {
    "loops": f"{_LOOP}{_LOOP}{_END}{_END}",
    "a loop in itself": "{% for x in range(999) recursive %}{{ loop(range(999)) if loop.depth < 9 }}{% endfor %}",
    "a macro in itself": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(90) }}",
    "generators": f"{_BIG}{_LOOP}{{{{ (big|list)|map('string')|list|length }}}}{_END}",
    "text times a number": "{{ 'a' * 10 ** 10 }}",
    "a number times text": "{{ 10 ** 10 * 'a' }}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "squares": "{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "center": "{{ 'a'|center(10 ** 10) }}",
    "center where constants are computed": "{% autoescape 'a'|center(10000000000) %}{% endautoescape %}",
    "to_bytes": "{{ (5).to_bytes(length=10 ** 10, byteorder='big') }}",
    "round": "{{ 5|round(-10 ** 9) }}",
    "indent": "{{ 'a\\na'|indent(10 ** 10) }}",
    "indent by a text": f"{_BIG}{{{{ ('\\n' * 9000)|indent(first=true, width=big) }}}}",
    "tojson": "{{ [1]|tojson(indent=10 ** 10) }}",
    "tojson with separators": f"{_BIG}{{{{ ([1] * 9000)|tojson(separators=(big, ':')) }}}}",
    "translate": f"{_BIG}{{{{ big.translate({{97: big}})|length }}}}",
    "format": "{{ '%1000000000d'|format(1) }}",
    "per cent": "{{ '%1000000000d' % 1 }}",
    "format of a text": "{{ '{:1000000000}'.format(1) }}",
    "format in a format": "{{ '{:{}}'.format(1, 10 ** 9) }}",
    "format as an attribute": "{{ ('{:1000000000}'|attr('format'))(1) }}",
    "plus": doubled("{% set ns.x = ns.x + ns.x %}"),
    "tilde": doubled("{% set ns.x = ns.x ~ ns.x %}"),
    "a block": doubled("{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
    "a macro": "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}" + doubled("{% set ns.x = m(ns.x) %}"),
    "join": doubled("{% set ns.x = [ns.x, ns.x]|join %}"),
    "join of a text": doubled("{% set ns.x = ''.join([ns.x, ns.x]) %}"),
    "join by a text": f"{_BIG}{{{{ big|join(big) }}}}{{{{ big.join(big) }}}}",
    "replace": doubled("{% set ns.x = ns.x|replace('a', 'aa') %}"),
    "replace of nothing": f"{_BIG}{{{{ big.replace('', big) }}}}",
    "replace by name": f"{_BIG}{{{{ big|replace(new=big, old='') }}}}",
    "static text": _LOOP + "x" * 9000 + _END,
    "static text of a macro": "{% macro m() %}" + "x" * 9000 + "{% endmacro %}" + _LOOP + "{% set a = m() %}" + _END,
    "output": f"{_BIG}{_LOOP}{{{{ big }}}}{_END}",
    "slices": f"{_BIG}{{% set ns = namespace(l=[]) %}}{_LOOP}{{% set ns.l = ns.l + [big[1:]] %}}{_END}",
    "words": "{{ ('a ' * 400000).split()|length }}",
    "letters": "{{ ('ä' * 400000)|list|length }}",
    "comparisons": f"{_BIG}{{% set other = 'a' * 90000 %}}{_LOOP}{{% set a = big == other %}}{_END}",
    "searches": f"{_BIG}{_LOOP}{{% set a = 'b' in big %}}{_END}",
    "tests": f"{_BIG}{_LOOP}{{% set a = 'b' is in big %}}{_END}",
    "mappings": f"{_LOOP}{{% set x = dict.fromkeys(range(99999)) %}}{_END}",
    "a list written": nested("{{ ns.x }}"),
    "a list as a text": nested("{{ ns.x|string|length }}"),
    "a list as JSON": nested("{{ ns.x|tojson }}"),
    "a list in a format": nested("{{ '%s' % ns.x }}"),
    "a list in a text": nested("{{ ns.x ~ '' }}"),
    "a list in an error": nested("{{ raise_exception(ns.x) }}"),
    "a list in the name of what is missing": nested("{{ ('a'[ns.x]).b }}"),
    "lists compared": nested("{{ ns.x == ns.y }}"),
    "lists sorted": nested("{{ [ns.x, ns.y]|min }}"),
    "lists counted": nested("{{ [ns.x].count(ns.y) }}"),
    "lists of a loop": nested("{% for i in range(2) %}{{ loop.changed(ns.x if i else ns.y) }}{% endfor %}"),
    "a tuple as a key": nested("{{ {ns.x: 1} }}", *_TUPLES),
    "a tuple looked up": nested("{{ {1: 1}[ns.x] }}{{ {1: 1}.get(ns.x) }}", *_TUPLES),
    "a tuple in a mapping": nested("{{ ns.x in {1: 1} }}", *_TUPLES),
    "values of a mapping": nested("{{ ns.x }}", "dict(a=ns.x, b=ns.x).values()", "{}"),
    "items of a mapping": nested("{{ ns.x }}", "dict(a=ns.x, b=ns.x).items()", "{}"),
    "a long template": "{% set a = 1 %}" * 20000,
    "a deep template": "{% if 0 %}" + "{% elif 0 %}" * 8000 + "{% endif %}",
}  # fmt: skip


@pytest.mark.parametrize("template", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_template_that_computes_too_much_is_stopped(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_BASE", 1_000_000)  # a twentieth, which takes a twentieth of the time
    with pytest.raises(TemplateWorkError, match="computes more than a conversation needs"):
        ChatTemplate({"default": template}, {}).render(_USER)


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
