"""Computes answers in turn, each for as long as its client is there, and however slowly the client reads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import Any

from starlette.requests import ClientDisconnect, Request

from seap_export.runtime import Stream


class Answering:
    """The answer to one request, which a worker computes while its pieces are read."""

    def __init__(self, request: Request, worker: Executor, begin: Callable[[Callable[[], bool]], Stream]) -> None:
        self._loop, self._has_left = asyncio.get_running_loop(), threading.Event()
        self._given: asyncio.Queue[Any] = asyncio.Queue()  # the stream, its pieces, and None or an error
        self._watching = self._loop.create_task(self._watch(request))
        worker.submit(self._compute, begin)

    async def begun(self) -> Stream:
        """The stream, once it has its turn; raises the errors of `begin`, and `ClientDisconnect`."""
        stream: Stream = await self._next()
        return stream

    async def pieces(self) -> AsyncIterator[str]:
        """The pieces after that; raises the errors of the stream."""
        while (piece := await self._next()) is not None:
            yield piece
            await asyncio.sleep(0)  # many may lie there; a client that has left is noticed between them

    async def _next(self) -> Any:
        given = await self._given.get()
        if isinstance(given, Exception):
            raise given
        return given

    async def _watch(self, request: Request) -> None:
        """Waits until the client leaves, which it also does when it has its answer or the server ends."""
        try:
            while (await request.receive())["type"] != "http.disconnect":
                pass
        finally:
            self._has_left.set()

    def _compute(self, begin: Callable[[Callable[[], bool]], Stream]) -> None:
        try:
            if self._has_left.is_set():
                raise ClientDisconnect
            self._give(stream := begin(self._has_left.is_set))
            for piece in stream:
                self._give(piece)
            self._give(None)
        except Exception as error:
            self._give(error)

    def _give(self, given: Any) -> None:
        self._loop.call_soon_threadsafe(self._given.put_nowait, given)
