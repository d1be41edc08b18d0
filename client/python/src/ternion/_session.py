"""Many requests on one stream, for threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from threading import Condition
from types import TracebackType
from typing import Protocol

import grpc
from typing_extensions import Self, Unpack

from ternion._event import SessionEvent, session_event_in
from ternion._request import GenerateArguments, cancel_frame, generate_request, start_frame
from ternion._status import closed, from_rpc
from ternion.v1.inference_pb2 import SessionRequest, SessionResponse

# Frames that may wait for the connection before `start` does.
_UNSENT_FRAMES = 16


class _Call(Protocol):
    def __next__(self) -> SessionResponse: ...
    def add_callback(self, callback: Callable[[], None]) -> bool: ...
    def is_active(self) -> bool: ...
    def code(self) -> grpc.StatusCode: ...
    def cancel(self) -> bool: ...


class Session(Iterator[SessionEvent]):
    """Many requests on one stream, each under an id of the caller's choice.

    A request that fails does not end the session. Closing or dropping the
    session cancels what runs on it.

    Any thread may start and cancel; one reads.
    """

    def __init__(
        self, open_call: Callable[[Iterator[SessionRequest]], _Call], timeout: float | None
    ) -> None:
        self._timeout = timeout
        self._unsent = _Unsent()
        self._call = open_call(self._unsent)
        self._ended = False
        self._closed = False
        # grpc takes frames in a thread of its own, which waits here.
        if not self._call.add_callback(self._unsent.close):
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
        self._send(start_frame(request_id, generate_request(arguments), timeout))

    def cancel(self, request_id: str) -> None:
        """End a running request, which then tells so by a ``Finished`` event.

        An id that is not running is ignored: the request may just have ended.
        """
        self._send(cancel_frame(request_id))

    def half_close(self) -> None:
        """Say that nothing more will be started.

        What runs goes on, and iteration ends after the last event.
        """
        self._unsent.close()

    def close(self) -> None:
        """End the session, and cancel what runs on it."""
        self._ended = True
        self._closed = True
        self._unsent.close()
        self._call.cancel()

    def __next__(self) -> SessionEvent:
        """Return the next event of any request. An error here has ended the session."""
        while not self._ended:
            try:
                event = session_event_in(next(self._call))
            except grpc.RpcError as ended:
                error = from_rpc(ended)
            else:
                if event is not None:
                    return event
                continue
            self._ended = True
            raise error
        raise StopIteration

    def _send(self, frame: SessionRequest) -> None:
        if self._unsent.put(frame):
            return
        # grpc's call is the exception that reading raises as well.
        call = self._call
        broken = not self._closed and not call.is_active() and call.code() != grpc.StatusCode.OK
        if broken and isinstance(call, grpc.RpcError):
            raise from_rpc(call)
        raise closed("session")

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
