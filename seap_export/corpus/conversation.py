"""Records in the usual forms, and conversations, which the model's chat template renders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from seap_export.common.chat_template import CallArguments
from seap_export.common.templates import render
from seap_export.errors import InputError
from seap_export.runtime.chat import ROLES, Message, last_user_text

#: The fields of each form, by the first of which it is recognised.
_FORMS = (("text",), ("messages",), ("conversations",), ("prompt", "completion"), ("instruction", "output"))
#: Roles by the words that stand for them in `from`, in data in the form of ShareGPT.
_SHARE_GPT = {"human": "user", "gpt": "assistant"}
_BETWEEN = "\n\n"


class Chat(Protocol):
    """A chat template, or what stands in for one (`seap_export.runtime.chat.ChatTemplate`)."""

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False, tools: Sequence[Any] = ()
    ) -> str:
        """The text of a conversation, up to where the assistant's next turn begins if that is wanted."""
        ...


class JoinedTurns:
    """Stands in for the chat template of a model that has none: the turns are joined by blank lines."""

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False, tools: Sequence[Any] = ()
    ) -> str:
        """The contents of the turns; tools are left out."""
        return _BETWEEN.join([*(message["content"] for message in messages), *([""] if add_generation_prompt else [])])


@dataclass(frozen=True)
class Conversation:
    """The turns of a conversation."""

    messages: tuple[Message, ...]
    tools: tuple[Any, ...] = ()

    @property
    def is_blank(self) -> bool:
        """Whether no turn has a text or calls a function."""
        return not any(turn["content"].strip() or "tool_calls" in turn for turn in self.messages)

    @property
    def question(self) -> str:
        """The text of the last user turn; "" if there is none."""
        return last_user_text(self.messages)

    @property
    def is_asked(self) -> bool:
        """Whether anyone but the assistant has a turn."""
        return any(turn["role"] != "assistant" for turn in self.messages)

    @property
    def unanswered(self) -> Conversation:
        """The turns before the assistant's last one, if that ends the conversation."""
        is_answered = self.messages[-1]["role"] == "assistant"
        return replace(self, messages=self.messages[: len(self.messages) - is_answered])

    def rendered(self, chat: Chat) -> tuple[str, str]:
        """The text in two parts: up to where the assistant's last turn begins, and that turn.

        The second part is empty if the conversation does not end with the assistant. Together they are the whole
        text, even if the template begins the turn otherwise when it asks for an answer, as some do to start a thought.
        """
        before = self.unanswered.messages
        prompt = chat.render(before, add_generation_prompt=True, tools=self.tools) if before else ""
        if before == self.messages:
            return prompt, ""
        whole = chat.render(self.messages, tools=self.tools)
        pairs = enumerate(zip(prompt, whole, strict=False))
        end = next((index for index, (one, other) in pairs if one != other), min(len(prompt), len(whole)))
        return whole[:end], whole[end:]


def read_record(record: Mapping[str, Any]) -> str | Conversation:
    """The text or the conversation of a record, which is recognised by its fields."""
    forms = [form for form in _FORMS if all(name in record for name in form)]
    # in a table of several forms, the fields of the others are null
    first = next((name for name, *_ in forms if record[name] is not None), forms[-1][0] if forms else None)
    if first == "text":
        if isinstance(record["text"], int | float):
            raise InputError(
                f"field 'text' is {_short(record['text'])}, not a text; put it into quotes, or drop the record"
            )
        return render("{text}", record)
    if first in ("messages", "conversations"):
        return _conversation(record, _turns(first, record[first]))
    if first == "prompt":
        return _conversation(record, _part(record, "prompt", "user") + _part(record, "completion", "assistant"))
    if first == "instruction":
        texts = [
            render("{instruction}", record),
            *(render("{input}", record) for _ in range(bool(record.get("input")))),
        ]
        return _conversation(record, (_turn("user", _BETWEEN.join(texts)), *_part(record, "output", "assistant")))
    fields = ", ".join(repr(str(name)) for name in record) or "none"
    raise InputError(
        "no form is recognised: a record has 'text', 'messages', 'prompt' and 'completion', or 'instruction' and "
        f"'output' (fields there: {fields:.200}); give a task file (.toml) that turns them into a text"
    )


def _conversation(record: Mapping[str, Any], turns: tuple[Message, ...]) -> Conversation:
    """The turns, after the system prompt that stands in a field of its own, with the tools of the record."""
    system = record.get("system")
    if isinstance(system, str) and system.strip() and turns and turns[0]["role"] not in ("system", "developer"):
        turns = (_turn("system", system), *turns)
    return Conversation(turns, _tools(record.get("tools")))


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _part(record: Mapping[str, Any], name: str, role: str) -> tuple[Message, ...]:
    """The turns of a field that holds a text or turns; an answer may be missing."""
    if isinstance(record[name], list):
        return _turns(name, record[name])
    is_missing = role == "assistant" and record[name] in (None, "")
    return () if is_missing else (_turn(role, render(f"{{{name}}}", record)),)


def _turns(name: str, value: object) -> tuple[Message, ...]:
    """The turns of a list, or of its JSON, as tables hold it."""
    with suppress(ValueError, RecursionError):
        value = json.loads(value) if isinstance(value, str) else value
    if not isinstance(value, list) or not value:
        raise InputError(
            f"field {name!r} is {_short(value)}, not a list of turns or its JSON; correct or drop the record"
        )
    return tuple(_checked(f"turn {number} of {name!r}", turn) for number, turn in enumerate(value, start=1))


def _checked(where: str, value: object) -> Message:
    """A turn without null fields, which stand for missing ones in tables; its content is a text."""
    if not isinstance(value, Mapping):
        raise InputError(
            f"{where} is {_short(value)}, not an object with 'role' and 'content'; correct or drop the record"
        )
    turn = {key: item for key, item in value.items() if item is not None}
    if "from" in turn and "role" not in turn:
        turn = {"role": _SHARE_GPT.get(str(turn["from"]), turn["from"]), "content": turn.get("value")}
    if turn.get("role") not in ROLES:
        raise InputError(f"{where} has the role {_short(turn.get('role'))}; use one of {', '.join(ROLES)}")
    if turn.get("content") is None and "tool_calls" not in turn:
        raise InputError(f"{where} has no 'content'; correct or drop the record")
    if isinstance(turn.get("tool_calls"), list):
        turn["tool_calls"] = [_call(call) for call in turn["tool_calls"]]
    return {**turn, "content": _text(where, turn.get("content", ""))}


def _call(value: object) -> object:
    """A call of a function with its arguments as templates want them; OpenAI has them as JSON."""
    if not isinstance(value, Mapping):
        return value
    call = dict(value)
    if "function" in call:
        call["function"] = _call(call["function"])
    given = arguments = call.get("arguments")
    with suppress(ValueError, RecursionError):
        arguments = json.loads(given) if isinstance(given, str) else given
    if isinstance(arguments, dict):
        text = given if isinstance(given, str) else json.dumps(arguments, ensure_ascii=False)
        call["arguments"] = CallArguments(arguments, text)
    return call


def _text(where: str, content: object) -> str:
    """The text of a content: a text, or a list of its parts."""
    if isinstance(content, str):
        return content
    for part in content if isinstance(content, list) else [content]:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise InputError(f"{where} has a content that is no text ({_short(part)}); use text-only conversations")
    return "".join(part["text"] for part in content) if isinstance(content, list) else ""


def _tools(value: object) -> tuple[Any, ...]:
    """The functions of a conversation: a list, or its JSON, as tables hold it."""
    if isinstance(value, str) and value:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InputError(f"field 'tools' is not JSON ({error}); correct or drop it") from error
    if value and not isinstance(value, list):
        raise InputError(f"field 'tools' is {_short(value)}, not a list of functions; correct or drop it")
    return tuple(value) if isinstance(value, list) else ()


def _short(value: object) -> str:
    return f"{value!r:.40}"
