"""Reads the requests of OpenAI's interface, and refuses those that cannot be answered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seap_export.common.json_file import parse_json
from seap_export.errors import UsageError
from seap_export.runtime import Prompt, Sampling

#: Says nothing about the answer.
_IGNORED = frozenset({"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"})
#: What is not supported, with the values that ask for nothing.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False, 0),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}
_NUMBERS = {"temperature": float, "top_p": float, "top_k": int, "min_p": float, "repetition_penalty": float}
_MOST_STOPS = 16


class RequestError(Exception):
    """A request that cannot be answered."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def to_json(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Asked:
    """A request."""

    model: str | None
    prompt: Prompt
    is_chat: bool
    max_new_tokens: int | None
    sampling: Sampling
    stop: tuple[str, ...]
    is_streamed: bool
    with_usage: bool


def read_request(body: bytes, *, is_chat: bool, most_tokens: int) -> Asked:
    try:
        values = parse_json(body)
        json.dumps(values, ensure_ascii=False).encode()  # refuses halves of characters, which are no text
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body cannot be read as JSON ({error})") from error
    if not isinstance(values, dict):
        raise RequestError("the body is not a JSON object")
    values = {name: value for name, value in values.items() if value is not None and name not in _IGNORED}
    prompt = _messages(values.pop("messages", None)) if is_chat else _text(values.pop("prompt", None))
    model = _of(values, "model", str, None)
    options = _of(values, "stream_options", dict, {})
    asked = Asked(
        model=model,
        prompt=prompt,
        is_chat=is_chat,
        max_new_tokens=_tokens(values, most_tokens),
        sampling=_sampling(values),
        stop=_stop(values.pop("stop", ())),
        is_streamed=_of(values, "stream", bool, False),
        with_usage=_of(options, "include_usage", bool, False),
    )
    for name, value in values.items():
        if name not in _UNSUPPORTED:
            raise RequestError(f"there is no parameter '{name:.40}'", param=name, code="unknown_parameter")
        if not any(value == nothing and _is_bool(value) == _is_bool(nothing) for nothing in _UNSUPPORTED[name]):
            raise RequestError(f"'{name}' is not supported; leave it out", param=name, code="unsupported_parameter")
    return asked


def _of(values: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    """Takes a field out of the others."""
    value = values.pop(name, None)
    if value is None:
        return default
    if not isinstance(value, (int, float) if kind is float else kind) or _is_bool(value) != (kind is bool):
        raise RequestError(f"'{name}' is {value!r:.40}, which is not of the type {kind.__name__}", param=name)
    return value


def _is_bool(value: object) -> bool:
    """Whether a value is true or false, which Python takes for 1 and 0."""
    return isinstance(value, bool)


def _tokens(values: dict[str, Any], most: int) -> int | None:
    """How many tokens are asked for, under the new name and the old one; None: no number is given."""
    names = ("max_tokens", "max_completion_tokens")
    given = {name: tokens for name in names if (tokens := _of(values, name, int, None)) is not None}
    for name, tokens in given.items():
        if not 1 <= tokens <= most:
            remedy = "" if tokens < 1 else ", or start `seap-export serve` with a larger --max-new-tokens"
            raise RequestError(f"'{name}' is {tokens}; ask for 1 to {most} tokens{remedy}", param=name)
    return min(given.values(), default=None)


def _sampling(values: dict[str, Any]) -> Sampling:
    """How tokens are chosen; at a temperature of 0, which is usual, what else narrows the choice has no effect."""
    given = {name: _of(values, name, kind, None) for name, kind in _NUMBERS.items()}
    given = {name: value for name, value in given.items() if value is not None}
    seed = _of(values, "seed", int, 0)
    if not given.get("temperature"):
        given = {name: value for name, value in given.items() if name in ("temperature", "repetition_penalty")}
    try:
        return Sampling(**given, seed=seed)
    except UsageError as error:
        raise RequestError(str(error)) from error


def _stop(value: object) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise RequestError("'stop' must be a text or a list of texts, none of which is empty", param="stop")
    if len(texts) > _MOST_STOPS:
        raise RequestError(f"'stop' has {len(texts)} texts; give at most {_MOST_STOPS}", param="stop")
    return tuple(texts)


def _text(value: object) -> str:
    texts = value if isinstance(value, list) else [value]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise RequestError("'prompt' must be a text; send a request for each of several", param="prompt")
    return texts[0]


def _messages(value: object) -> Sequence[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise RequestError("'messages' must be a list of objects with a role and a content", param="messages")
    return [{**turn, "content": _content(turn.get("content"))} for turn in value]


def _content(value: object) -> str:
    """The text of a content, which may be in parts."""
    parts = value if isinstance(value, list) else [{"type": "text", "text": "" if value is None else value}]
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        raise RequestError("the content of a message must be text", param="messages")
    return "".join(map(str, texts))
