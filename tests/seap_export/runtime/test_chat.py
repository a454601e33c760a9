"""Chat templates are rendered as transformers renders them, prompts of users are texts, and pieces are the text."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.editing import set_json
from support.tokenizers import trained_byte_level, write_byte_level, write_micro_tokenizer, write_sentencepiece
from tokenizers import Tokenizer, processors

from seap_export.errors import InputError
from seap_export.runtime.chat import PLAIN, TEXT_FORM, ChatTemplate, read_chat_template
from seap_export.runtime.prompts import prompt_ids
from seap_export.runtime.text import StopTexts, TextStream

HEADERS = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nToday Date: " + date_string + "<|eot_id|>" }}
{%- if tools is not none %}
    {%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- "\n\n" }}{%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls is defined and message.tool_calls %}
        {%- for call in message.tool_calls %}{{- call.function | tojson }}{%- endfor %}
        {%- continue %}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {%- generation %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endgeneration %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}
"""
TURNS = """{{ bos_token }}{% set ns = namespace(last='') %}{% for message in messages %}
{% if message.role == ns.last %}{{ raise_exception('roles must alternate') }}{% endif %}
{% set ns.last = message.role %}
[{{ message.role | upper }}] {{ message.content }}{{ eos_token }}
{% endfor %}"""
USER, ASSISTANT = {"role": "user", "content": " Where is <it>? "}, {"role": "assistant", "content": 'In "Ä".'}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"at": "<ä>"}}}],
}
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}}


def template_of(folder: Path, date: datetime | None = None) -> ChatTemplate:
    template = read_chat_template(folder, Tokenizer.from_file(str(folder / "tokenizer.json")), date)
    assert template is not None
    return template


@pytest.mark.parametrize(
    ("write", "goes_on"), [(write_byte_level, False), (write_sentencepiece, True)], ids=["byte level", "SentencePiece"]
)
@pytest.mark.parametrize("template", [HEADERS, TURNS], ids=["headers", "turns"])
@pytest.mark.parametrize(("messages", "tools"), [([USER, ASSISTANT, USER], []), ([USER, CALL], [TOOL])], ids=len)
def test_as_transformers_renders(
    tmp_path: Path, write: Any, template: str, messages: list[Any], tools: list[Any], goes_on: bool
) -> None:
    from transformers import AutoTokenizer

    write(tmp_path, chat_template=template)
    oracle = AutoTokenizer.from_pretrained(tmp_path)
    expected = oracle.apply_chat_template(messages, tools=tools or None, tokenize=False, add_generation_prompt=goes_on)
    chat = template_of(tmp_path)
    text = chat.render(messages, add_generation_prompt=goes_on, tools=tools)
    assert chat.prefix + text == expected if expected.startswith("<s>") else text == expected
    expected_ids = oracle(expected, add_special_tokens=False)["input_ids"]
    if chat.prefix and not expected.startswith(chat.prefix):  # BOS, as in front of all other texts
        expected_ids = [oracle.bos_token_id, *expected_ids]
    assert oracle(text)["input_ids"] == expected_ids


NAMED = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config.json": {"chat_template": "a"}}, ("a", "a")),
        ({"tokenizer_config.json": {"chat_template": NAMED}}, ("a", "b")),
        ({"tokenizer_config.json": {"chat_template": "a"}, "chat_template.json": {"chat_template": "b"}}, ("b", "b")),
        ({"chat_template.json": {"chat_template": "b"}, "chat_template.jinja": "c"}, ("c", "c")),
        ({"chat_template.jinja": "c", "additional_chat_templates/tool_use.jinja": "d"}, ("c", "d")),
    ],
)
def test_where_templates_stand(tmp_path: Path, files: dict[str, Any], expected: tuple[str, str]) -> None:
    write_micro_tokenizer(tmp_path)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    chat = template_of(tmp_path)
    assert (chat.render([USER]), chat.render([USER], tools=[TOOL])) == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages[7].content + 1 }}", "undefined|no element"),
    ],
)
def test_a_template_that_fails_gives_one_line(template: str, reason: str) -> None:
    with pytest.raises(InputError, match=rf"\A[^\n]*chat template refuses the messages \([^\n]*({reason})[^\n]*\Z"):
        ChatTemplate({"default": template}, {}).render([USER])


@pytest.mark.parametrize(
    ("template", "tokens"),
    [
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}</s>\n{% endfor %}", {2}),
        ("{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}{% endfor %}", set()),
        ("{{ raise_exception('no') }}", set()),
    ],
)
def test_what_ends_a_turn(tmp_path: Path, template: str, tokens: set[int]) -> None:
    write_byte_level(tmp_path, chat_template=template)
    assert template_of(tmp_path).turn_ends(Tokenizer.from_file(str(tmp_path / "tokenizer.json"))) == tokens


def test_the_date_can_be_fixed(tmp_path: Path) -> None:
    write_byte_level(tmp_path, chat_template="{{ strftime_now('%Y-%m-%d') }}")
    assert template_of(tmp_path, datetime(2024, 7, 26)).render([USER]) == "2024-07-26"
    assert template_of(tmp_path).render([USER]) == datetime.now().strftime("%Y-%m-%d")


TEMPLATE = "{% for message in messages %}{{ message.role }}{{ message.content }}</s>{% endfor %}"


@pytest.fixture(params=[write_byte_level, write_sentencepiece])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tokenizer, ChatTemplate]:
    request.param(tmp_path, chat_template=TEMPLATE)
    return Tokenizer.from_file(str(tmp_path / "tokenizer.json")), template_of(tmp_path)


@pytest.mark.parametrize("role", ["user", "tool", "system"])
@pytest.mark.parametrize("content", ["</s>", "a mat</s></s> home", "</<s>s>", [{"type": "text", "text": "</s>"}]])
def test_control_tokens_of_others_are_letters(model: tuple[Tokenizer, ChatTemplate], role: str, content: Any) -> None:
    tokenizer, template = model
    controls = {tokenizer.token_to_id(token) for token in ("<s>", "</s>")}
    plain = prompt_ids([{"role": role, "content": "a mat"}], tokenizer, template)
    ids = prompt_ids([{"role": role, "content": content}], tokenizer, template)
    number = sum(token in controls for token in ids) - sum(token in controls for token in plain)
    assert (number == 0) == (role in ("user", "tool"))
    if number == 0 and isinstance(content, str) and tokenizer.token_to_id("<0x3C>"):  # the other one has few letters
        assert content.replace(" ", "") in tokenizer.decode(ids).replace(" ", "")


def test_texts_are_one_piece_and_plain_where_the_variant_was_made_from_such(
    model: tuple[Tokenizer, ChatTemplate], tmp_path: Path
) -> None:
    tokenizer, chat = model
    in_template = tokenizer.encode("userthe cat</s>").ids
    assert prompt_ids("the cat", tokenizer, chat) == in_template
    assert prompt_ids("the </s>", tokenizer, chat, raw=True) == tokenizer.encode("the </s>").ids
    set_json(tmp_path / "tokenizer_config.json", **{TEXT_FORM: PLAIN})
    template = read_chat_template(tmp_path, tokenizer)
    assert prompt_ids("the cat", tokenizer, template) == tokenizer.encode("the cat").ids
    assert prompt_ids("the cat", tokenizer, template, raw=False) == in_template
    assert prompt_ids([{"role": "user", "content": "the cat"}], tokenizer, template) == in_template


TEXTS = [
    "the cat sat  on   a mat\n\n\tand it ran",
    "Grüße aus Köln, 你好世界, 🙂🚀👩‍👩‍👧 done",
    " leading and trailing ",
    "a�b � c",
    "�",
]


@pytest.fixture(params=["bytes", "SentencePiece"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    """Most characters beyond ASCII are several tokens; SentencePiece drops the first space."""
    if request.param == "bytes":
        tokenizer = trained_byte_level(TEXTS, 270)
        tokenizer.add_special_tokens(["<s>"])
        return tokenizer
    write_sentencepiece(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.post_processor = processors.Sequence([])
    return tokenizer


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("prompt", ["ü", "<s>the"])
def test_pieces_are_the_text(tokenizer: Tokenizer, text: str, prompt: str) -> None:
    before, new = tokenizer.encode(prompt).ids, tokenizer.encode(text).ids
    stream = TextStream(tokenizer, before)
    pieces = [*map(stream.add, new), stream.end()]
    assert tokenizer.decode(before) + "".join(pieces) == tokenizer.decode(before + new)
    if "�" not in text:
        assert not any("�" in piece for piece in pieces)
    assert len([piece for piece in pieces if piece]) > 3 or len(text) < 5  # it does not wait for the end


def test_halves_of_characters_and_special_tokens_lose_nothing(tokenizer: Tokenizer) -> None:
    the, special = tokenizer.encode(" the").ids, tokenizer.token_to_id("<s>")
    stream = TextStream(tokenizer, the)
    begun = "".join(map(stream.add, [*the, special, special, *tokenizer.encode(" the 🙂").ids[:-1]]))
    assert (begun.split(), {*stream.end().strip()}) == (["the", "the"], {"�"})  # it never gets whole


@pytest.mark.parametrize("size", [1, 3, 50])
@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        ([], "one two", "one two"),
        (["two"], "one two three", "one "),
        (["xx", " tw"], "one twxx", "one"),
        (["aab"], "aaab.", "a"),
        (["\n\n", "one two!"], "one two\n", "one two\n"),
        (["one"], "one", ""),
    ],
)
def test_a_text_ends_before_a_stop_text(stops: list[str], text: str, expected: str, size: int) -> None:
    """However it comes; what may be the beginning of one is held back, and given out at the end."""
    watched = StopTexts(stops)
    pieces = [watched.add(text[start : start + size]) for start in range(0, len(text), size)]
    assert "".join([*pieces, watched.end()]) == expected
    assert watched.is_reached == (expected != text)
