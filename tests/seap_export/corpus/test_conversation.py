"""Records are recognised by their fields, and conversations are rendered by a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.product import ChatTemplate

from seap_export.corpus import Sample, parse_task
from seap_export.errors import InputError

CHATML = ChatTemplate(
    {
        "default": "{% for tool in tools or [] %}({{ tool.name }}){% endfor %}"
        "{% for message in messages %}<{{ message.role }}>{{ message.content }}"
        "{% for call in message.tool_calls or [] %}[{{ (call.function or call).name }}"
        "{% for key, value in ((call.function or call).arguments or {}).items() %} {{ key }}={{ value }}{% endfor %}]"
        "{% endfor %}</>\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    },
    {},
)
#: Asks for a thought, which a finished conversation lacks.
THINKING = ChatTemplate(
    {
        "default": "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant><think>{% endif %}"
    },
    {},
)
STRICT = ChatTemplate(
    {"default": "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"}, {}
)
USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
SYSTEM, TOOL = {"role": "system", "content": "Be"}, {"role": "tool", "content": "4"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}
PARTS = {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}
#: What Parquet makes of turns of which only some have a field.
FILLED = [{**USER, "tool_calls": None, "name": None}, {**ASSISTANT, "tool_calls": None, "name": "x"}]
ANSWERED = Sample("<user>Hi</>\n<assistant>", "Ho</>\n", "Hi")
INSTRUCTED = Sample("<system>Be</>\n<user>Hi</>\n<assistant>", "Ho</>\n", "Hi")


def _task(tmp_path: Path, *records: dict[str, Any], task_file: str = "") -> Any:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "a.toml").write_text(f'corpus = "a.jsonl"\n{task_file}')
    return parse_task(f"a={tmp_path / 'a.toml'}" if task_file else f"a={path}")


@pytest.mark.parametrize(
    ("record", "sample"),
    [
        ({"text": "x", "messages": [USER]}, Sample("x", "")),
        ({"messages": [USER, ASSISTANT]}, ANSWERED),
        ({"text": None, "prompt": None, "completion": None, "instruction": "Hi", "output": "Ho"}, ANSWERED),
        ({"messages": FILLED, "prompt": "no", "completion": "no"}, ANSWERED),
        ({"messages": [PARTS, ASSISTANT]}, ANSWERED),
        ({"messages": [USER]}, Sample("<user>Hi</>\n<assistant>", "", "Hi")),
        (
            {"messages": [SYSTEM, USER, ASSISTANT, {"role": "user", "content": "And?"}, ASSISTANT]},
            Sample("<system>Be</>\n<user>Hi</>\n<assistant>Ho</>\n<user>And?</>\n<assistant>", "Ho</>\n", "And?"),
        ),
        (
            {"messages": [USER, CALL, TOOL, ASSISTANT], "tools": '[{"name": "add"}]'},
            Sample("(add)<user>Hi</>\n<assistant>[add]</>\n<tool>4</>\n<assistant>", "Ho</>\n", "Hi"),
        ),
        ({"messages": [USER, CALL], "tools": []}, Sample("<user>Hi</>\n<assistant>", "[add]</>\n", "Hi")),
        (
            {"messages": [USER, {**CALL, "tool_calls": [{"function": {"name": "add", "arguments": '{"x": 1}'}}]}]},
            Sample(ANSWERED.prompt, "[add x=1]</>\n", "Hi"),
        ),
        ({"messages": [ASSISTANT]}, Sample("", "<assistant>Ho</>\n")),
        ({"messages": json.dumps([USER, ASSISTANT])}, ANSWERED),  # as in a CSV file
        ({"messages": [USER, ASSISTANT], "system": "Be"}, INSTRUCTED),
        ({"prompt": "Hi", "completion": "Ho", "system": "Be"}, INSTRUCTED),
        ({"instruction": "Hi", "output": "Ho", "system": "Be"}, INSTRUCTED),
        ({"messages": [SYSTEM, USER, ASSISTANT], "system": "Do"}, INSTRUCTED),
        *(({"messages": [USER, ASSISTANT], "system": system}, ANSWERED) for system in (None, " ", True)),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}, ANSWERED),
        ({"prompt": [USER], "completion": [ASSISTANT], "tools": None}, ANSWERED),
        ({"prompt": "Hi", "completion": ""}, Sample("<user>Hi</>\n<assistant>", "", "Hi")),
        ({"instruction": "Hi", "input": "", "output": "Ho"}, ANSWERED),
        ({"instruction": "Hi", "output": "Ho", "id": 3}, ANSWERED),
        (
            {"instruction": "Hi", "input": "x", "output": 5},
            Sample("<user>Hi\n\nx</>\n<assistant>", "5</>\n", "Hi\n\nx"),
        ),
    ],
)
def test_forms(tmp_path: Path, record: dict[str, Any], sample: Sample) -> None:
    assert list(_task(tmp_path, record).texts(CHATML)) == [sample]


@pytest.mark.parametrize("arguments", [{"at": "<ä>"}, '{"at": "<ä>"}'])
def test_a_template_may_write_the_arguments_of_a_call_as_an_object_or_as_a_text(
    tmp_path: Path, arguments: object
) -> None:
    turn = {**CALL, "tool_calls": [{"name": "add", "arguments": arguments}]}
    task = _task(tmp_path, {"messages": [USER, turn]})
    # the second is DeepSeek's, which wants a text
    for written in ("call.arguments | tojson", "'' + call.arguments + ''", "'' ~ call.arguments", "call.arguments"):
        calls = f"{{% for call in m.tool_calls %}}{{{{ {written} }}}}{{% endfor %}}"
        chat = ChatTemplate({"default": f"{{% for m in messages %}}{calls}{{% endfor %}}"}, {})
        assert [sample.text for sample in task.texts(chat)] == ['{"at": "<ä>"}'], written


def test_the_prompt_for_a_model_to_answer(tmp_path: Path) -> None:
    asked = "<user>Hi</>\n<assistant>"
    for turns, prompt in ([USER, ASSISTANT], asked), ([ASSISTANT, USER, ASSISTANT], f"<assistant>Ho</>\n{asked}"):
        assert [sample.text for sample in _task(tmp_path, {"messages": turns}).prompts(CHATML)] == [prompt]
    for turns in ([ASSISTANT], [ASSISTANT, ASSISTANT]):
        with pytest.raises(InputError, match="no prompt"):
            list(_task(tmp_path, {"messages": turns}).prompts(CHATML))


def test_texts_of_other_templates_or_of_none(tmp_path: Path) -> None:
    task = _task(tmp_path, {"messages": [USER, ASSISTANT]}, {"messages": [USER]})  # an answer begins in two ways
    assert list(task.texts(THINKING)) == [
        Sample("<user>Hi<assistant>", "Ho", "Hi"),
        Sample("<user>Hi<assistant><think>", "", "Hi"),
    ]
    task = _task(tmp_path, {"messages": [SYSTEM, USER, ASSISTANT]})
    assert list(task.texts()) == [Sample("Be\n\nHi\n\n", "Ho", "Hi")]
    blank = {"role": "user", "content": " "}
    assert list(_task(tmp_path, {"messages": [blank]}, {"text": "x"}).texts(CHATML)) == [Sample("x", "")]


@pytest.mark.parametrize(
    ("task_file", "sample"),
    [
        ('user = "{q}?"\nassistant = "{a}"', Sample("<user>Hi?</>\n<assistant>", "Ho</>\n", "Hi?")),
        ('system = "Be"\nuser = "{q}"\n[assistant]\nchoices = ["x", "{a}"]\nlabel = "n"', INSTRUCTED),
        ('user = "{q}"', Sample("<user>Hi</>\n<assistant>", "", "Hi")),
        ('prompt = "{q}"\ncompletion = "{a}"', Sample("Hi", "Ho")),
        ('answer = "(.*)"', ANSWERED),
    ],
)
def test_a_task_file_says_what_is_a_conversation(tmp_path: Path, task_file: str, sample: Sample) -> None:
    record = {"q": "Hi", "a": "Ho", "n": 1, "messages": [USER, ASSISTANT]}
    assert list(_task(tmp_path, record, task_file=task_file).texts(CHATML)) == [sample]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"goal": "x"}, ["'text', 'messages'", "fields there: 'goal'", "task file"]),
        ({"prompt": "x"}, ["'completion'", "fields there: 'prompt'"]),
        ({"prompt": None, "completion": "x", "messages": None}, ["prompt", "null"]),
        ({"messages": []}, ["'messages' is []"]),
        ({"messages": "Hi"}, ["'messages' is 'Hi'"]),
        ({"messages": "[{'role': 'user', 'content': 'Hi'}]"}, ["'messages'", "not a list of turns", "JSON"]),
        ({"messages": [USER, "Ho"]}, ["turn 2", "'Ho'", "'role'"]),
        ({"messages": [{"role": "bot", "content": "Hi"}]}, ["turn 1", "'bot'", "assistant"]),
        ({"messages": [{"role": "user"}]}, ["turn 1", "no 'content'"]),
        ({"messages": [{"role": "user", "content": 3}]}, ["turn 1", "no text (3)"]),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, ["turn 1", "image", "text-only"]),
        ({"conversations": [{"from": "function_call", "value": "x"}]}, ["turn 1", "'function_call'"]),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, ["turn 1", "role ['human']"]),
        ({"prompt": [], "completion": "x"}, ["'prompt' is []"]),
        ({"messages": [USER], "tools": "{"}, ["'tools' is not JSON"]),
        ({"messages": [USER], "tools": {"a": 1}}, ["'tools' is {'a': 1}", "list"]),
        ({"instruction": None, "output": "x"}, ["'instruction' is null"]),
        ({"messages": [SYSTEM, USER]}, ["chat template refuses", "no system"]),
    ],
)
def test_a_broken_record_is_named(tmp_path: Path, record: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        list(_task(tmp_path, {"text": "x"}, record).texts(STRICT))
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in ["a.jsonl, line 2", *words] if word not in message] == []
