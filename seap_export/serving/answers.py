"""The answers of OpenAI's interface, whole and in pieces."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from seap_export.runtime import Stream

#: Why an answer ended, in OpenAI's words.
_REASONS = {"end": "stop", "text": "stop", "length": "length", "context": "length"}


@dataclass(frozen=True)
class Answer:
    """The form of the answer to one request.

    Attributes:
        created: When it was begun, in seconds since 1970.
    """

    model: str
    is_chat: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, stream: Stream) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        return {**self._head("chat.completion", [self._choice(said, stream)]), "usage": _usage(stream)}

    def first(self) -> dict[str, Any] | None:
        """The message before the first piece, if there is one."""
        delta = {"delta": {"role": "assistant", "content": ""}}
        return self._head("chat.completion.chunk", [self._choice(delta, None)]) if self.is_chat else None

    def piece(self, text: str) -> dict[str, Any]:
        return self._head("chat.completion.chunk", [self._choice(self._delta({"content": text}, text), None)])

    def last(self, stream: Stream) -> dict[str, Any]:
        """The message after the last piece, with the reason why the answer ended."""
        return self._head("chat.completion.chunk", [self._choice(self._delta({}, ""), stream)])

    def usage(self, stream: Stream) -> dict[str, Any]:
        """The numbers of tokens, which come at the very end if they were asked for."""
        return {**self._head("chat.completion.chunk", []), "usage": _usage(stream)}

    def _delta(self, delta: dict[str, Any], text: str) -> dict[str, Any]:
        return {"delta": delta} if self.is_chat else {"text": text}

    def _choice(self, said: dict[str, Any], ended: Stream | None) -> dict[str, Any]:
        reason = None if ended is None else _REASONS[ended.stop or "length"]
        return {"index": 0, **said, "logprobs": None, "finish_reason": reason}

    def _head(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind, prefix = (kind, "chatcmpl") if self.is_chat else ("text_completion", "cmpl")
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def _usage(stream: Stream) -> dict[str, int]:
    prompt, new = stream.prompt_tokens, len(stream.token_ids)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
