"""The events of one request, for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event as Flag
from threading import Lock
from types import TracebackType
from typing import Protocol

import grpc
from typing_extensions import Self

from ternion._event import Event, event_in
from ternion._retry import Attempts
from ternion._status import from_rpc
from ternion.errors import TransportError
from ternion.v1.inference_pb2 import Delta, Finished, GenerateResponse


class _Call(Protocol):
    def __next__(self) -> GenerateResponse: ...
    def cancel(self) -> bool: ...


class Events(Iterator[Event]):
    """The events of one request, as they come.

    Closing or dropping it cancels the request on the server, and so does a
    ``break`` out of ``for event in client.generate(...)``, which drops it. Use
    it in a ``with`` statement where something else may still hold it.

    One thread reads; any may close. A reader that waits meanwhile gets
    ``Cancelled``.
    """

    def __init__(
        self,
        open_call: Callable[[float | None], _Call],
        attempts: Attempts,
        resume: Callable[[int | None, float | None], _Call] | None = None,
    ) -> None:
        self._open_call = open_call
        self._resume = resume
        self._attempts = attempts
        self._begun = False
        self._closed = Flag()
        # Held while a call takes the place of another, so that `close` gets
        # the one there is.
        self._replacing = Lock()
        self._call = open_call(attempts.time_left())
        self.finished: Finished | None = None
        """How the request ended, once that has been read."""
        self.last_seq: int | None = None
        """Place of the last event among those of the request."""

    def __next__(self) -> Event:
        while not self._closed.is_set():
            try:
                response = next(self._call)
            except grpc.RpcError as ended:
                error = from_rpc(ended)
            else:
                self._note(response)
                event = event_in(response)
                if isinstance(event, Finished) and not event.remaining:
                    self.finished = event
                if event is not None:
                    return event
                continue
            broke = self._resume is not None and isinstance(error, TransportError)
            pause = None if self._begun and not broke else self._attempts.pause(error)
            if pause is None:
                self._closed.set()
                raise error
            self._closed.wait(pause)
            self._try_again()
        raise StopIteration

    def texts(self) -> Iterator[str]:
        """Give the text alone, piece by piece."""
        return _Texts(self)

    def close(self) -> None:
        """Cancel the request unless it has ended."""
        with self._replacing:
            self._closed.set()
            self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _note(self, response: GenerateResponse) -> None:
        self._begun = True
        self.last_seq = response.seq
        self._attempts.begin_anew()

    def _try_again(self) -> None:
        with self._replacing:
            if self._closed.is_set():
                return
            time_left = self._attempts.time_left()
            if self._begun and self._resume is not None:
                self._call = self._resume(self.last_seq, time_left)
            else:
                self._call = self._open_call(time_left)


class _Texts(Iterator[str]):
    """Not a generator: dropping this drops the events at once."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def __next__(self) -> str:
        for event in self._events:
            if isinstance(event, Delta) and event.text:
                return event.text
        raise StopIteration
