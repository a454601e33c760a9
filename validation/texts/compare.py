"""Compares a runtime's tokenizer and chat template with those of the model folder, on texts that are hard to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from seap_export.errors import ParityFailure
from validation.runtimes.table import open_texts, runtime_title
from validation.runtimes.texts import Conversation, RuntimeTexts
from validation.texts.model import ModelTexts
from validation.texts.strings import CONVERSATIONS, HARD_STRINGS

#: Differences that are named; characters and ids of each that are shown.
_MOST, _SHOWN, _IDS = 5, 40, 4
_Compared = TypeVar("_Compared", str, list[int])


@dataclass(frozen=True)
class TextFigures:
    """The result of comparing a runtime's tokenizer and chat template with the model's.

    Attributes:
        conversations: How many conversations the template rendered; 0: the runtime has no call for it, or the model
            no template.
    """

    strings: int
    conversations: int
    reasons: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The result and its verdict as JSON values."""
        return {
            "strings": self.strings,
            "conversations": self.conversations,
            "verdict": "failed" if self.reasons else "passed",
            "reasons": list(self.reasons),
        }


def compare_texts(model: ModelTexts, runtime: RuntimeTexts, prompts: Sequence[str], title: str) -> TextFigures:
    """Encodes the hard texts and the prompts in both, decodes their tokens, and renders conversations."""
    special = model.special_tokens()
    every = {
        **HARD_STRINGS,
        "every special token": "".join(special),
        "special tokens in a text": "".join(f"a {token} b" for token in special),
        **{f"prompt {number}": prompt for number, prompt in enumerate(prompts)},
    }
    strings = {name: text for name, text in every.items() if model.can_read(text)}
    reasons: list[str] = []
    remarks: list[str] = []

    def note(what: str, name: str, line: str | None) -> None:
        if line is not None and name in runtime.known:
            remarks.append(f"{what}: {line} ({runtime.known[name]})")
        elif line is not None:
            reasons.append(f"{what}: {line}")

    for name, text in strings.items():
        note(name, name, next(_of_string(model, runtime, text, title), None))
    rendered = 0
    for talk in CONVERSATIONS:
        wanted = model.render(talk)
        if wanted is None or (talk.tools and wanted == model.render(replace(talk, tools=()))):
            continue  # the template refuses it, or knows no tools
        compared, line = _of_conversation(model, runtime, talk, wanted, title)
        rendered += compared
        note(f"chat template, {talk.name}", talk.name, line)
    if len(reasons) > _MOST:
        reasons = [*reasons[:_MOST], f"{len(reasons) - _MOST} more texts differ in {title}"]
    return TextFigures(len(strings), rendered, tuple(reasons), tuple(remarks))


def runtime_figures(model: ModelTexts, runtime: str, folder: Path, prompts: Sequence[str]) -> TextFigures | None:
    """Compares a written folder's texts in a runtime; None: its tokenizer is the model's, in transformers."""
    title = runtime_title(runtime)
    try:
        texts = open_texts(runtime, folder)
    except ParityFailure as error:
        return TextFigures(0, 0, (), (f"texts were not compared: {error}",))
    if texts is None:
        return None
    with closing(texts):
        return compare_texts(model, texts, prompts, title)


def _of_string(model: ModelTexts, runtime: RuntimeTexts, text: str, title: str) -> Iterator[str]:
    """Yields how a runtime differs from the model in the token ids of a text, and in the text decoded from them."""
    ids = model.encode(text)
    shown = ascii(text[:_SHOWN]) + ("..." if len(text) > _SHOWN else "")
    yield from _apart(f"token ids of {shown}", lambda: runtime.encode(text), ids, title)
    ids = model.unambiguous(ids)
    if ids:
        yield from _apart(f"the text of the tokens of {shown}", lambda: runtime.decode(ids), model.decode(ids), title)


def _of_conversation(
    model: ModelTexts, runtime: RuntimeTexts, talk: Conversation, wanted: str, title: str
) -> tuple[bool, str | None]:
    """Whether the runtime renders such a conversation, and the differences: of its text, or of its tokens."""
    try:
        text = runtime.render(talk)
    except ParityFailure as error:
        return True, str(error)
    if text is None:
        return False, None
    lines = [*_apart("the text", lambda: text, wanted, title)]
    if model.can_read(wanted):
        ids = model.encode(wanted, special=False)
        lines += _apart("the token ids", lambda: runtime.conversation_ids(talk, text), ids, title)
    return True, next(iter(lines), None)


def _apart(what: str, give: Callable[[], _Compared], wanted: _Compared, title: str) -> Iterator[str]:
    """Says where two texts or lists of ids first differ, if they do."""
    try:
        given = give()
    except ParityFailure as error:
        yield f"{what}: {error}"
        return
    if given != wanted:
        shortest = min(len(given), len(wanted))
        place = next((index for index in range(shortest) if given[index] != wanted[index]), shortest)
        one, other = (_part(value, place) for value in (given, wanted))
        yield f"{what}: at {place}, {one} in {title} and {other} in the model"


def _part(value: str | list[int], place: int) -> str:
    """The ids or characters at a place of a list or text, and a few after it, for a message."""
    if isinstance(value, list):
        return f"{value[place : place + _IDS]}".replace("]", ", ...]" if len(value) > place + _IDS else "]")
    return ascii(value[place : place + _SHOWN // 2])
