"""Many requests on one stream, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType

import grpc.aio
from typing_extensions import Self, Unpack

from ternion._event import SessionEvent, session_event_in
from ternion._request import GenerateArguments, cancel_frame, generate_request, start_frame
from ternion._resumable import Resumable
from ternion._retry import Attempts
from ternion._status import closed, from_rpc
from ternion.errors import Cancelled, TernionError
from ternion.v1.inference_pb2 import GenerateRequest, SessionRequest, SessionResponse

_Call = grpc.aio.StreamStreamCall[SessionRequest, SessionResponse]


class Session(AsyncIterator[SessionEvent]):
    """Many requests on one stream, each under an id of the caller's choice.

    A request that fails does not end the session. Closing or dropping the
    session cancels what runs on it, and so does cancelling a task that reads
    it or waits in ``start``; what is resumable waits for a while, in vain,
    unless it was cancelled before.
    """

    def __init__(
        self,
        open_call: Callable[[], _Call],
        timeout: float | None,
        retries: int,
        client_closed: Callable[[], bool],
    ) -> None:
        self._open_call = open_call
        self._timeout = timeout
        self._retries = retries
        self._resumable = Resumable()
        self._client_closed = client_closed
        self._loop = asyncio.get_running_loop()
        self._call = open_call()
        self._half_closed = False
        self._closed = False
        self._cancelled = False
        # grpc takes one frame at a time.
        self._sending = asyncio.Lock()

    async def reconnect(self) -> None:
        """Go on over another connection, after iteration raised ``TransportError``.

        Resumable requests that had not ended are told on without a gap; one
        that the server has not kept fails. All others are lost.
        """
        attempts = Attempts(timeout=None, retries=self._retries)
        async with self._sending:
            while (error := await self._opened_again()) is not None:
                pause = attempts.pause(error)
                if pause is None:
                    raise error
                await asyncio.sleep(pause)
            for frame in self._resumable.frames():
                await self._write(frame)
            if self._half_closed:
                await self._call.done_writing()

    async def start(
        self,
        request_id: str,
        *,
        timeout: float | None = None,
        **arguments: Unpack[GenerateArguments],
    ) -> None:
        """Start a request.

        Its id, 1 to 128 bytes, comes back with each of its events and may be
        used again once it has ended. An error here is the session's.
        """
        timeout = self._timeout if timeout is None else timeout
        request = generate_request(arguments)
        await self._send(start_frame(request_id, request, timeout), request)

    async def cancel(self, request_id: str) -> None:
        """End a running request, which then tells so by a ``Finished`` event.

        An id that is not running is ignored: the request may just have ended.
        """
        await self._send(cancel_frame(request_id))

    async def half_close(self) -> None:
        """Say that nothing more will be started.

        What runs goes on, and iteration ends after the last event.
        """
        async with self._sending:
            if not self._half_closed and not self._closed:
                self._half_closed = True
                await self._call.done_writing()

    async def aclose(self) -> None:
        """End the session, and cancel what runs on it."""
        self._closed = True
        self._cancelled = True
        self._call.cancel()
        # Its end, so that nothing of it is left in the loop.
        await self._call.code()

    async def __anext__(self) -> SessionEvent:
        """Return the next event of any request. An error here has ended the session."""
        while not self._closed:
            try:
                response = await self._read()
            except grpc.RpcError as ended:
                error = from_rpc(ended)
            else:
                if response is None:
                    break
                self._resumable.note(response)
                event = session_event_in(response)
                if event is not None:
                    return event
                continue
            self._closed = True
            raise error
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _opened_again(self) -> TernionError | None:
        if self._cancelled:
            raise closed("session")
        self._call = self._open_call()
        self._closed = False
        try:
            await self._call.wait_for_connection()
        except grpc.RpcError as ended:
            return from_rpc(ended)
        return None

    async def _send(self, frame: SessionRequest, request: GenerateRequest | None = None) -> None:
        async with self._sending:
            if self._half_closed or self._cancelled:
                raise closed("session")
            if request is not None:
                # Before it can end.
                self._resumable.add(frame.request_id, request)
            try:
                await self._write(frame)
            except BaseException:
                if request is not None:
                    self._resumable.remove(frame.request_id)
                raise

    async def _write(self, frame: SessionRequest) -> None:
        try:
            # A server that refuses the session says so before anything
            # else. grpc forgets what it said if something is sent just then.
            await self._call.initial_metadata()
            await self._call.write(frame)
        except grpc.RpcError as ended:
            error = from_rpc(ended)
        except asyncio.InvalidStateError:
            error = await self._end()
        except asyncio.CancelledError:
            if self._cancelled or self._client_closed():
                raise closed("session") from None
            self._closed = True
            raise
        else:
            return
        raise error

    async def _end(self) -> TernionError:
        """Why a call is over that has not been half-closed."""
        code = await self._call.code()
        if code is grpc.StatusCode.OK or self._call.cancelled():
            return closed("session")
        details = await self._call.details()
        trailers = await self._call.trailing_metadata()
        return from_rpc(grpc.aio.AioRpcError(code, None, trailers, details=details))

    def __del__(self) -> None:
        # grpc's own objects hold each other, and would go on until the garbage
        # collector comes by, which may then run in another thread.
        if hasattr(self, "_call") and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._call.cancel)

    async def _read(self) -> SessionResponse | None:
        try:
            response = await self._call.read()
        except asyncio.CancelledError:
            # grpc raises it for a call that was cancelled as well as in a task
            # that is.
            if self._closed or self._client_closed():
                raise Cancelled("the session was closed") from None
            self._closed = True
            self._call.cancel()
            raise
        return response if isinstance(response, SessionResponse) else None
