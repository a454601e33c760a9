"""Our own runtime's texts: what `seap-export generate` and the Python API do with a prompt, and with an answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seap_export.errors import InputError, ParityFailure
from seap_export.runtime.chat import ChatTemplate, read_chat_template
from seap_export.runtime.files import load_tokenizer
from seap_export.runtime.text import TextStream
from validation.runtimes.texts import Conversation, RuntimeTexts


class OnnxTexts(RuntimeTexts):
    """The tokenizer and chat template of our own API; decodes token by token, as it streams. See `RuntimeTexts`."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = load_tokenizer(folder)
        self._template = read_chat_template(folder, self._tokenizer)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Sequence[int]) -> str:
        text = TextStream(self._tokenizer, ())
        return "".join([*map(text.add, ids), text.end()])

    def render(self, conversation: Conversation) -> str:
        """Renders a conversation, BOS included, which our tokenizer adds itself."""
        return self._chat().prefix + self._rendered(conversation)

    def conversation_ids(self, conversation: Conversation, text: str) -> list[int]:
        return self.encode(self._rendered(conversation))

    def _rendered(self, conversation: Conversation) -> str:
        try:
            return self._chat().render(
                conversation.messages, add_generation_prompt=conversation.prompts, tools=conversation.tools
            )
        except InputError as error:
            raise ParityFailure(str(error)) from error

    def _chat(self) -> ChatTemplate:
        if self._template is None:
            raise ParityFailure("there is no chat template")
        return self._template
