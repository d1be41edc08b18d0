"""The events of one request, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType

import grpc.aio
from typing_extensions import Self

from ternion._event import Event, event_in
from ternion._retry import Attempts
from ternion._status import from_rpc
from ternion.errors import Cancelled, TransportError
from ternion.v1.inference_pb2 import Delta, Finished, GenerateRequest, GenerateResponse

_Call = grpc.aio.UnaryStreamCall[GenerateRequest, GenerateResponse]


class Events(AsyncIterator[Event]):
    """The events of one request, as they come.

    Closing or dropping it cancels the request on the server, and so does
    cancelling the task that reads it, or a ``break`` out of ``async for event
    in client.generate(...)``, which drops it. Use it in an ``async with``
    statement where something else may still hold it.

    A reader that waits while another task closes gets ``Cancelled``.
    """

    def __init__(
        self,
        open_call: Callable[[float | None], _Call],
        attempts: Attempts,
        client_closed: Callable[[], bool],
        resume: Callable[[int | None, float | None], _Call] | None = None,
    ) -> None:
        self._open_call = open_call
        self._resume = resume
        self._attempts = attempts
        self._client_closed = client_closed
        self._loop = asyncio.get_running_loop()
        self._begun = False
        self._closed = False
        self._call = open_call(attempts.time_left())
        self.finished: Finished | None = None
        """How the request ended, once that has been read."""
        self.last_seq: int | None = None
        """Place of the last event among those of the request."""

    async def __anext__(self) -> Event:
        while not self._closed:
            try:
                response = await self._read()
            except grpc.RpcError as ended:
                error = from_rpc(ended)
            else:
                if response is None:
                    break
                self._begun = True
                self.last_seq = response.seq
                self._attempts.begin_anew()
                event = event_in(response)
                if isinstance(event, Finished) and not event.remaining:
                    self.finished = event
                if event is not None:
                    return event
                continue
            broke = self._resume is not None and isinstance(error, TransportError)
            pause = None if self._begun and not broke else self._attempts.pause(error)
            if pause is None:
                self._closed = True
                raise error
            await asyncio.sleep(pause)
            if not self._closed:
                self._call = self._open_again(self._attempts.time_left())
        raise StopAsyncIteration

    def texts(self) -> AsyncIterator[str]:
        """Give the text alone, piece by piece."""
        return _Texts(self)

    async def aclose(self) -> None:
        """Cancel the request unless it has ended."""
        self._closed = True
        self._call.cancel()
        # Its end, so that nothing of it is left in the loop.
        await self._call.code()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # grpc's own objects hold each other, and would go on until the garbage
        # collector comes by, which may then run in another thread.
        if hasattr(self, "_call") and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._call.cancel)

    def _open_again(self, time_left: float | None) -> _Call:
        if self._begun and self._resume is not None:
            return self._resume(self.last_seq, time_left)
        return self._open_call(time_left)

    async def _read(self) -> GenerateResponse | None:
        try:
            response = await self._call.read()
        except asyncio.CancelledError:
            # grpc raises it for a call that was cancelled as well as in a task
            # that is.
            if self._closed or self._client_closed():
                raise Cancelled("the events were closed") from None
            self._closed = True
            self._call.cancel()
            raise
        return response if isinstance(response, GenerateResponse) else None


class _Texts(AsyncIterator[str]):
    """Not a generator: dropping this drops the events at once."""

    def __init__(self, events: Events) -> None:
        self._events = events

    async def __anext__(self) -> str:
        async for event in self._events:
            if isinstance(event, Delta) and event.text:
                return event.text
        raise StopAsyncIteration
