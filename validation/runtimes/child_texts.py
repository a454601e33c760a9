"""The texts of a runtime that runs in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from validation.runtimes.texts import Conversation, RuntimeTexts


class ChildTexts(RuntimeTexts):
    """The texts of a runtime in a process, whose requests are named as the methods here; see `RuntimeTexts`.

    Args:
        ask: Sends a request by its name, with values, and returns the answer; its errors are raised.
        close: Ends the process.
    """

    def __init__(self, ask: Callable[..., Any], close: Callable[[], None]) -> None:
        self._ask, self._close = ask, close

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return list(map(int, self._ask("encode", text=text, special=special)))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._ask("decode", ids=list(ids)))

    def render(self, conversation: Conversation) -> str:
        talk = {"messages": list(conversation.messages), "tools": list(conversation.tools)}
        return str(self._ask("render", prompts=conversation.prompts, **talk))

    def close(self) -> None:
        self._close()
