"""Renders messages with a model's chat template, as transformers does, but without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from seap_export.common.chat_template import TemplateWorkError, render
from seap_export.common.json_file import read_artifact
from seap_export.errors import ArtifactError, InputError
from seap_export.runtime.files import encode

#: A turn of a conversation: `role`, `content`, and what else the template reads, such as `tool_calls`.
Message = Mapping[str, Any]
#: A question for a model: a text, or the turns of a conversation.
Prompt = str | Sequence[Message]
#: The roles that a turn can have.
ROLES = ("system", "developer", "user", "assistant", "tool")
#: Key in tokenizer_config.json, and its value where a variant was made from plain texts though there is a template.
TEXT_FORM, PLAIN = "seap_export_texts", "plain"

DEFAULT_TEMPLATE, _WITH_TOOLS = "default", "tool_use"
#: Stands for an assistant's turn, to find what follows it.
_ANSWER = "assistant's answer"
#: The description of a function, as a model that calls functions gets it.
_TOOLS = ({"type": "function", "function": {"name": "f", "description": "f", "parameters": {"type": "object"}}},)
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template.

    Attributes:
        sources: The templates by name; `default`, and often no other.
        special_tokens: The texts of the tokenizer's special tokens by the names that templates use.
        prefix: BOS, if the tokenizer itself puts it before every text, else ""; a rendered text lacks it.
        date: What templates that ask for the date are told; None: today.
        takes_texts: Whether a text that comes as a prompt is a user's turn; not if the variant was made from plain
            texts, which it continues.
    """

    sources: Mapping[str, str]
    special_tokens: Mapping[str, str]
    prefix: str = ""
    date: datetime | None = None
    takes_texts: bool = True

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False, tools: Sequence[Any] = ()
    ) -> str:
        """The text of a conversation, to be tokenized as any other text.

        Args:
            add_generation_prompt: Whether the text goes on to where the assistant's next turn begins.
            tools: JSON schemas of the functions that the model may call.

        Raises:
            InputError: The template refuses the messages or is damaged.
        """
        name = _WITH_TOOLS if tools and _WITH_TOOLS in self.sources else DEFAULT_TEMPLATE
        values = {
            "messages": list(messages),  # as transformers gives them, should a template print them
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self.special_tokens,
        }
        text = render(self.sources[name], self.date, values)
        return text.removeprefix(self.prefix)

    def turn_ends(self, tokenizer: Tokenizer) -> frozenset[int]:
        """The special token that the template writes after an assistant's turn, such as <|im_end|>, if it does.

        Not every model's config names it among the tokens that end a text.
        """
        following = encode(tokenizer, answer_end(self.render).strip(), add_special_tokens=False)
        special = tokenizer.get_added_tokens_decoder()
        if following and following[0] in special and special[following[0]].special:
            return frozenset(following[:1])
        return frozenset()

    def answer_start(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """The tokens with which the template starts an assistant's turn; none if it writes nothing there."""
        with suppress(InputError):  # a template may refuse any conversation
            user = [{"role": "user", "content": "user"}]
            before, after = self.render(user), self.render(user, add_generation_prompt=True)
            if after.startswith(before):
                return tuple(encode(tokenizer, after.removeprefix(before), add_special_tokens=False))
        return ()


def answer_end(render: Callable[[Sequence[Message]], str]) -> str:
    """The text that a template writes after an assistant's turn; "" if it writes none."""
    with suppress(InputError):  # a template may refuse any conversation
        turns = [{"role": "user", "content": "user"}, {"role": "assistant", "content": _ANSWER}]
        return render(turns).rpartition(_ANSWER)[2]
    return ""


def last_user_text(messages: Sequence[Message]) -> str:
    """The text of a conversation's last user turn, "" if there is none."""
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content") or ""
            parts = [{"text": content}] if isinstance(content, str) else content
            return "".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))
    return ""


def read_chat_template(folder: Path, tokenizer: Tokenizer, date: datetime | None = None) -> ChatTemplate | None:
    """The chat template of a model's or a variant's folder; None: it has none.

    Args:
        folder: The folder with tokenizer.json and what belongs to it.
        tokenizer: The folder's tokenizer.
        date: What templates that ask for the date are told; None: today.

    Raises:
        ArtifactError: One of the files is damaged.
    """
    path = folder / "tokenizer_config.json"
    config = read_artifact(path) if path.is_file() else {}
    sources = template_sources(folder, config)
    if not sources:
        return None
    tokens = _special_tokens(config)
    bos = tokens.get("bos_token")
    adds_bos = bos is not None and encode(tokenizer, "")[:1] == [tokenizer.token_to_id(bos)]
    takes_texts = config.get(TEXT_FORM) != PLAIN
    return ChatTemplate(sources, tokens, bos if bos is not None and adds_bos else "", date, takes_texts)


def template_sources(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates of a model's folder by name, with `DEFAULT_TEMPLATE` among them, or none.

    Args:
        folder: The folder with tokenizer.json and what belongs to it.
        config: The content of its tokenizer_config.json.

    Raises:
        ArtifactError: A file with templates is damaged.
    """
    old = folder / "chat_template.json"
    template = (read_artifact(old) if old.is_file() else config).get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, Mapping)}
    else:
        named = {DEFAULT_TEMPLATE: template}
    if (text := folder / "chat_template.jinja").is_file():  # takes the place of all that the others say
        named = {DEFAULT_TEMPLATE: _text_in(text)}
    named |= {path.stem: _text_in(path) for path in sorted(folder.glob("additional_chat_templates/*.jinja"))}
    sources = {name: source for name, source in named.items() if isinstance(name, str) and isinstance(source, str)}
    return sources if sources.get(DEFAULT_TEMPLATE) else {}


def refuse_costly_template(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuses a model's folder with a chat template that computes too much for plain conversations.

    Args:
        folder: The folder with tokenizer.json and what belongs to it, or a GGUF file.
        config: The content of its tokenizer_config.json, or what it would be.

    Raises:
        InputError: A template does.
        ArtifactError: A file with templates is damaged.
    """
    for name, source in template_sources(folder, config).items():
        try:
            _try_template(ChatTemplate({DEFAULT_TEMPLATE: source}, _special_tokens(config)))
        except TemplateWorkError as error:
            files = (f"additional_chat_templates/{name}.jinja", "chat_template.jinja", "chat_template.json")
            places = [folder / file for file in (*files, "tokenizer_config.json")]
            file = next((place for place in places if place.is_file()), folder)
            raise InputError(f"{file}: {error}") from error


def _try_template(template: ChatTemplate) -> None:
    """Renders plain conversations, which it may refuse; raises `TemplateWorkError`."""
    long = [{"role": "user", "content": "a longer question "}, {"role": "assistant", "content": "and its answer "}]
    turns = [{"role": "system", "content": "system"}, *(turn for _ in range(8) for turn in long)]
    for messages in (turns[1:2], turns[:2], turns[1:3], turns):
        for tools in ((), _TOOLS):
            for is_asked in (False, True):
                try:
                    template.render(messages, add_generation_prompt=is_asked, tools=tools)
                except TemplateWorkError:
                    raise
                except InputError:
                    continue


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    return {name: text for name in _SPECIAL_TOKENS if (text := _text_of(config.get(name))) is not None}


def _text_in(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); it is damaged, export again") from error


def _text_of(token: object) -> str | None:
    """The text of a special token, which configs state as a string or as an object with its properties."""
    value = token.get("content") if isinstance(token, Mapping) else token
    return value if isinstance(value, str) else None
