"""Many requests on one stream, for threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from threading import Condition, Lock
from types import TracebackType
from typing import Protocol

import grpc
from typing_extensions import Self, Unpack

from ternion._event import SessionEvent, session_event_in
from ternion._request import GenerateArguments, cancel_frame, generate_request, start_frame
from ternion._resumable import Resumable
from ternion._retry import Attempts
from ternion._status import closed, from_rpc
from ternion.errors import TernionError
from ternion.v1.inference_pb2 import SessionRequest, SessionResponse

# Frames that may wait for the connection before `start` does.
_UNSENT_FRAMES = 16


class _Call(Protocol):
    def __next__(self) -> SessionResponse: ...
    def add_callback(self, callback: Callable[[], None]) -> bool: ...
    def initial_metadata(self) -> object: ...
    def is_active(self) -> bool: ...
    def code(self) -> grpc.StatusCode: ...
    def cancel(self) -> bool: ...


class Session(Iterator[SessionEvent]):
    """Many requests on one stream, each under an id of the caller's choice.

    A request that fails does not end the session. Closing or dropping the
    session cancels what runs on it; what is resumable waits for a while, in
    vain, unless it was cancelled before.

    Any thread may start and cancel; one reads, and reconnects.
    """

    def __init__(
        self,
        open_call: Callable[[Iterator[SessionRequest]], _Call],
        timeout: float | None,
        retries: int,
    ) -> None:
        self._open_call = open_call
        self._timeout = timeout
        self._retries = retries
        self._resumable = Resumable()
        # So that what is started is either on a connection or on the next one.
        self._starting = Lock()
        # Held while a call takes the place of another, so that `close` gets
        # the one there is.
        self._replacing = Lock()
        self._half_closed = False
        self._closed = False
        self._open()

    def reconnect(self) -> None:
        """Go on over another connection, after iteration raised ``TransportError``.

        Resumable requests that had not ended are told on without a gap; one
        that the server has not kept fails. All others are lost.
        """
        attempts = Attempts(timeout=None, retries=self._retries)
        with self._starting:
            while (error := self._opened_again()) is not None:
                pause = attempts.pause(error)
                if pause is None:
                    raise error
                time.sleep(pause)
            for frame in self._resumable.frames():
                self._send(frame)
            if self._half_closed:
                self._unsent.close()

    def start(
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
        frame = start_frame(request_id, request, timeout)
        with self._starting:
            # Before it can end.
            self._resumable.add(request_id, request)
            try:
                self._send(frame)
            except TernionError:
                self._resumable.remove(request_id)
                raise

    def cancel(self, request_id: str) -> None:
        """End a running request, which then tells so by a ``Finished`` event.

        An id that is not running is ignored: the request may just have ended.
        """
        self._send(cancel_frame(request_id))

    def half_close(self) -> None:
        """Say that nothing more will be started.

        What runs goes on, and iteration ends after the last event.
        """
        self._half_closed = True
        self._unsent.close()

    def close(self) -> None:
        """End the session, and cancel what runs on it."""
        with self._replacing:
            self._ended = True
            self._closed = True
            self._unsent.close()
            self._call.cancel()

    def __next__(self) -> SessionEvent:
        """Return the next event of any request. An error here has ended the session."""
        while not self._ended:
            try:
                response = next(self._call)
            except grpc.RpcError as ended:
                error = from_rpc(ended)
            else:
                self._resumable.note(response)
                event = session_event_in(response)
                if event is not None:
                    return event
                continue
            self._ended = True
            raise error
        raise StopIteration

    def _open(self) -> None:
        self._ended = False
        self._unsent = _Unsent()
        self._call = self._open_call(self._unsent)
        # grpc takes frames in a thread of its own, which waits here.
        if not self._call.add_callback(self._unsent.close):
            self._unsent.close()

    def _opened_again(self) -> TernionError | None:
        with self._replacing:
            if self._closed:
                raise closed("session")
            self._open()
        # A server answers when it has opened the session.
        self._call.initial_metadata()
        return self._broken()

    def _send(self, frame: SessionRequest) -> None:
        if not self._unsent.put(frame):
            raise self._broken() or closed("session")

    def _broken(self) -> TernionError | None:
        # grpc's call is the exception that reading raises as well.
        call = self._call
        broken = not self._closed and not call.is_active() and call.code() != grpc.StatusCode.OK
        return from_rpc(call) if broken and isinstance(call, grpc.RpcError) else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Unsent(Iterator[SessionRequest]):
    """Frames on their way from `start` and `cancel` to grpc's thread."""

    def __init__(self) -> None:
        self._frames: deque[SessionRequest] = deque()
        self._closed = False
        self._changed = Condition()

    def put(self, frame: SessionRequest) -> bool:
        """Say whether it is on its way: not if nobody takes any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._frames) < _UNSENT_FRAMES)
            if not self._closed:
                self._frames.append(frame)
                self._changed.notify_all()
            return not self._closed

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __next__(self) -> SessionRequest:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._frames)
            if not self._frames:
                raise StopIteration
            self._changed.notify_all()
            return self._frames.popleft()
