"""The HTTP interface: OpenAI's chat completions, completions and models, answered one at a time."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from seap_export.errors import EnvironmentFailure, InputError, SeapError, UsageError, in_one_line
from seap_export.runtime import Generator, Stream
from seap_export.runtime.decoding.prefix import PrefixCache
from seap_export.serving.answering import Answering
from seap_export.serving.answers import Answer
from seap_export.serving.requests import Asked, RequestError, read_request

#: The largest body of a request, and the seconds in which it must arrive.
MOST_BYTES, MOST_SECONDS = 4 * 2**20, 60
_LOG = logging.getLogger(__name__)


def make_app(models: Mapping[str, Generator], *, most_tokens: int, hosts: Sequence[str]) -> Starlette:
    """The application.

    Args:
        most_tokens: The most tokens of an answer.
        hosts: The names under which it is asked; requests under other names are refused.
    """
    service = _Service(models, most_tokens)
    routes = [
        Route("/v1/models", service.list_models),
        Route("/v1/models/{name}", service.show_model),
        Route("/v1/chat/completions", partial(service.complete, is_chat=True), methods=["POST"]),
        Route("/v1/completions", partial(service.complete, is_chat=False), methods=["POST"]),
        Route("/health", _health),
    ]
    middleware = [
        Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
        # Starlette's own hands errors without a handler on to the server, which writes a traceback for each.
        Middleware(ExceptionMiddleware, handlers={Exception: _failed, ClientDisconnect: _left}),
    ]
    return Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: _failed})


def host_names(host: str, address: str) -> list[str]:
    """The names of a server, which the pages of other sites cannot use; "*" if it listens at all addresses.

    Args:
        host: What it was told to listen at.
    """
    if ip_address(address).is_unspecified:
        return ["*"]
    own = ["127.0.0.1", "localhost", "::1"] if ip_address(address).is_loopback else []
    return [f"[{name}]" if ":" in name else name for name in (host, address, *own)]


class _Service:
    def __init__(self, models: Mapping[str, Generator], most_tokens: int) -> None:
        self._models, self._most_tokens, self._started = models, most_tokens, int(time.time())
        self._caches = {name: PrefixCache(generator.decoder) for name, generator in models.items()}
        self._worker = ThreadPoolExecutor(1, "answers")  # all cores work on one answer

    async def list_models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._described(name) for name in self._models]})

    async def show_model(self, request: Request) -> Response:
        return JSONResponse(self._described(self._name(request.path_params["name"])))

    async def complete(self, request: Request, *, is_chat: bool) -> Response:
        asked = read_request(await _body(request), is_chat=is_chat, most_tokens=self._most_tokens)
        name = self._name(asked.model)
        answering = Answering(request, self._worker, partial(self._begin, asked, name))
        stream, answer = await answering.begun(), Answer(name, is_chat)
        if asked.is_streamed:
            events = _events(request, answering.pieces(), answer, stream, with_usage=asked.with_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        text = "".join([piece async for piece in answering.pieces()])
        return JSONResponse(answer.whole(text, stream))

    def _begin(self, asked: Asked, name: str, cancelled: Callable[[], bool]) -> Stream:
        """The answer, before anything of it is computed; refuses a wrong prompt."""
        generator, most = self._models[name], asked.max_new_tokens
        stream = generator.stream(
            asked.prompt,
            most or self._most_tokens,
            asked.sampling,
            raw=None if asked.is_chat else True,
            stop=asked.stop,
            cache=self._caches[name],
            cancelled=cancelled,
        )
        room = generator.decoder.context_length - stream.prompt_tokens
        if most is not None and most > room:
            message = f"after the prompt, the model's context has room for {room} tokens; ask for no more than these"
            raise RequestError(message, param="max_tokens", code="context_length_exceeded")
        return stream

    def _name(self, name: str | None) -> str:
        known = ", ".join(self._models)
        if name is None and len(self._models) > 1:
            raise RequestError(f"'model' is missing; give one of {known}", param="model")
        name = next(iter(self._models)) if name is None else name
        if name not in self._models:
            message = f"there is no model '{name:.60}'; give one of {known}"
            raise RequestError(message, status=404, param="model", code="model_not_found")
        return name

    def _described(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "seap-export"}


async def _events(
    request: Request, pieces: AsyncIterator[str], answer: Answer, stream: Stream, *, with_usage: bool
) -> AsyncIterator[bytes]:
    """The answer as server-sent events; an error in the middle is the last of them."""
    if (first := answer.first()) is not None:
        yield _event(first)
    try:
        async for piece in pieces:
            yield _event(answer.piece(piece))
    except Exception as error:
        yield _event(_told(request, error).to_json())
        return
    yield _event(answer.last(stream))
    if with_usage:
        yield _event(answer.usage(stream))
    yield b"data: [DONE]\n\n"


async def _body(request: Request) -> bytes:
    """The body of a request that says that it is JSON, as no page of another site can without being asked."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError("the content type must be application/json", status=415)
    body = bytearray()
    try:
        async with asyncio.timeout(MOST_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise RequestError(f"the body has more than {MOST_BYTES // 2**20} MiB", status=413)
    except TimeoutError as error:
        raise RequestError(f"the body has not arrived within {MOST_SECONDS} seconds", status=408) from error
    return bytes(body)


def _event(value: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _failed(request: Request, error: Exception) -> Response:
    told, headers = _told(request, error), error.headers if isinstance(error, HTTPException) else None
    return JSONResponse(told.to_json(), told.status, headers)


def _told(request: Request, error: Exception) -> RequestError:
    """The error as a client sees it; one that is not the client's is also logged, in one line."""
    if isinstance(error, RequestError):
        return error
    place = f"{request.method} {request.scope['path']!r:.60}"
    if isinstance(error, HTTPException):
        return RequestError(f"{place}: {error.detail}", status=error.status_code)
    if isinstance(error, UsageError | InputError):
        return RequestError(str(error))
    _LOG.error("%s: %s: %s", place, type(error).__name__, in_one_line(error))
    message = str(error) if isinstance(error, SeapError) else "the server failed; its log says why"
    return RequestError(message, status=503 if isinstance(error, EnvironmentFailure) else 500)


async def _left(request: Request, error: Exception) -> Response:
    """What nobody reads any more."""
    return Response(status_code=499)
