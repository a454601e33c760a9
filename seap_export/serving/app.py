"""The HTTP interface: OpenAI's chat completions, completions and models, answered one at a time."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from seap_export.errors import EnvironmentFailure, InputError, SeapError, UsageError
from seap_export.runtime import Generator, Stream
from seap_export.runtime.decoding.prefix import PrefixCache
from seap_export.serving.answers import Answer
from seap_export.serving.requests import Asked, RequestError, read_request

#: The largest body of a request.
MOST_BYTES = 4 * 2**20
#: The names under which a machine calls itself; a page of another site cannot use them.
_OWN_HOSTS = ["127.0.0.1", "localhost", "[::1]", "testserver"]


@dataclass(frozen=True)
class Model:
    """A variant that is served.

    Attributes:
        generator: The opened variant.
        cache: What was computed for the last text, of which the next one may use the beginning.
    """

    generator: Generator
    cache: PrefixCache

    @classmethod
    def of(cls, generator: Generator) -> Model:
        """A model that has not been asked anything."""
        return cls(generator, PrefixCache(generator.decoder))


def make_app(models: Mapping[str, Model], *, most_tokens: int, is_local: bool) -> Starlette:
    """The application.

    Args:
        models: The models by name.
        most_tokens: The most tokens of an answer.
        is_local: Whether it is for this machine alone, so that requests under other names are refused.
    """
    service = _Service(models, most_tokens)
    routes = [
        Route("/v1/models", service.list_models),
        Route("/v1/models/{name}", service.show_model),
        Route("/v1/chat/completions", partial(service.complete, is_chat=True), methods=["POST"]),
        Route("/v1/completions", partial(service.complete, is_chat=False), methods=["POST"]),
        Route("/health", _health),
    ]
    handlers: Mapping[Any, Callable[[Request, Any], Any]] = {
        RequestError: _refused,
        SeapError: _failed,
        HTTPException: _no_such_page,
    }
    hosts = [Middleware(TrustedHostMiddleware, allowed_hosts=_OWN_HOSTS)] if is_local else []
    return Starlette(routes=routes, middleware=hosts, exception_handlers=handlers)


class _Service:
    def __init__(self, models: Mapping[str, Model], most_tokens: int) -> None:
        self._models, self._most_tokens, self._started = models, most_tokens, int(time.time())
        self._turn = anyio.Lock()

    async def list_models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._described(name) for name in self._models]})

    async def show_model(self, request: Request) -> Response:
        return JSONResponse(self._described(self._name(request.path_params["name"])))

    async def complete(self, request: Request, *, is_chat: bool) -> Response:
        asked = read_request(await _body(request), is_chat=is_chat, most_tokens=self._most_tokens)
        name = self._name(asked.model)
        stream = await anyio.to_thread.run_sync(self._begin, asked, self._models[name])
        answer = Answer(name, is_chat)
        if asked.is_streamed:
            return StreamingResponse(self._events(asked, answer, stream), media_type="text/event-stream")
        pieces: list[str] = []
        async with self._generation(stream):
            while (piece := await _next(stream)) is not None:
                pieces.append(piece)
                if await request.is_disconnected():
                    raise ClientDisconnect
        return JSONResponse(answer.whole("".join(pieces), stream))

    def _begin(self, asked: Asked, model: Model) -> Stream:
        """The answer, of which nothing is computed yet; what is wrong with the prompt is found."""
        raw = None if asked.is_chat else True
        how = asked.max_new_tokens, asked.sampling
        return model.generator.stream(asked.prompt, *how, raw=raw, stop=asked.stop, cache=model.cache)

    async def _events(self, asked: Asked, answer: Answer, stream: Stream) -> AsyncIterator[bytes]:
        """The answer as server-sent events; an error in the middle is the last of them."""
        async with self._generation(stream):
            if (first := answer.first()) is not None:
                yield _event(first)
            try:
                while (piece := await _next(stream)) is not None:
                    yield _event(answer.piece(piece))
            except SeapError as error:
                yield _event(RequestError(str(error), status=500).to_json())
                return
            yield _event(answer.last(stream))
            if asked.with_usage:
                yield _event(answer.usage(stream))
        yield b"data: [DONE]\n\n"

    @asynccontextmanager
    async def _generation(self, stream: Stream) -> AsyncIterator[None]:
        """Waits for its turn, since all cores work on one answer; one that nobody waits for any more is ended."""
        async with self._turn:
            try:
                yield
            finally:
                stream.close()

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


async def _next(stream: Stream) -> str | None:
    """The next piece, computed beside the event loop; None: it is over."""
    return await anyio.to_thread.run_sync(next, stream, None)


async def _body(request: Request) -> bytes:
    """The body of a request that says that it is JSON, as no page of another site can without being asked."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError("the content type must be application/json", status=415)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise RequestError(f"the body has more than {MOST_BYTES // 2**20} MiB", status=413)
    return bytes(body)


def _event(value: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _refused(request: Request, error: RequestError) -> Response:
    return JSONResponse(error.to_json(), status_code=error.status)


async def _failed(request: Request, error: SeapError) -> Response:
    """What is wrong with the prompt is the caller's fault; the rest is not."""
    is_of_caller, is_of_machine = isinstance(error, UsageError | InputError), isinstance(error, EnvironmentFailure)
    status = 400 if is_of_caller else 503 if is_of_machine else 500
    return await _refused(request, RequestError(str(error), status=status))


async def _no_such_page(request: Request, error: HTTPException) -> Response:
    message = f"{request.method} {request.url.path}: {error.detail}"
    return await _refused(request, RequestError(message, status=error.status_code))
