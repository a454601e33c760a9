"""Renders the conversations of a corpus with the chat template of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from seap_export.corpus import Chat, JoinedTurns
from seap_export.errors import ArtifactError, InputError
from seap_export.model.sources.source import Source
from seap_export.pipeline.texts.tokenizer import tokenizer_folder
from seap_export.runtime.chat import Message, answer_end, read_chat_template
from seap_export.runtime.files import load_tokenizer

#: What templates that ask for the date are told, so that the same inputs give the same texts on every day.
_DATE = datetime(2024, 7, 26)


class ModelChat:
    """Renders conversations with a model's chat template, which is read when the first one is rendered."""

    def __init__(self, name: str, folder: Callable[[], AbstractContextManager[Path]]) -> None:
        self._name, self._folder = name, folder

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False, tools: Sequence[Any] = ()
    ) -> str:
        return self._chat.render(messages, add_generation_prompt=add_generation_prompt, tools=tools)

    @property
    def notice(self) -> str:
        """A remark to the user if the model has no chat template and turns were joined; else ""."""
        is_joined = "_chat" in vars(self) and isinstance(self._chat, JoinedTurns)
        return (
            f"{self._name} has no chat template: turns of conversations are joined by blank lines" if is_joined else ""
        )

    @cached_property
    def answer_end(self) -> str:
        """The text that the template writes after an assistant's turn; "" if there is none."""
        return answer_end(self.render)

    @cached_property
    def _chat(self) -> Chat:
        try:
            with self._folder() as folder:
                return read_chat_template(folder, load_tokenizer(folder), _DATE) or JoinedTurns()
        except ArtifactError as error:
            raise InputError(f"{self._name}: its chat template cannot be read ({error}); download it again") from error


def chat_of_source(source: Source) -> ModelChat:
    """The renderer of conversations for a dense model."""
    return ModelChat(source.name, partial(tokenizer_folder, source))


def chat_of_folder(folder: Path) -> ModelChat:
    """The renderer of conversations for a variant's folder that has a tokenizer."""
    return ModelChat(str(folder), lambda: nullcontext(folder))
