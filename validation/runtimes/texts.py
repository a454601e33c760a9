"""The interface to a runtime's own tokenizer and chat template, which parity compares with the model's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Conversation:
    """A conversation for a chat template to render.

    Attributes:
        name: The case that it tests, such as "several turns".
    """

    name: str
    messages: Sequence[Mapping[str, Any]]
    prompts: bool = True
    tools: Sequence[Mapping[str, Any]] = ()


class RuntimeTexts(ABC):
    """A runtime's tokenizer and chat template, of a folder that was written for it.

    Its methods raise `ParityFailure` where the runtime does not do what it is asked for.

    Attributes:
        known: The texts, by name, that the runtime is known to read or write in another way, and why.
    """

    known: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text, in which special tokens are recognised.

        Args:
            special: Whether with the tokens that the tokenizer puts around a text, such as BOS.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""

    def render(self, conversation: Conversation) -> str | None:
        """The text that the chat template makes of a conversation; None: the runtime has no call for such a one."""
        return None

    def conversation_ids(self, conversation: Conversation, text: str) -> list[int]:
        """The ids that the runtime gives to the model for a conversation of this text."""
        return self.encode(text, special=False)

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Frees its resources; it cannot be used afterwards."""
