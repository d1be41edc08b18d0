"""What a running request tells."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from ternion._status import from_status
from ternion.errors import TernionError
from ternion.v1.inference_pb2 import (
    Delta,
    Finished,
    GenerateResponse,
    Queued,
    SessionResponse,
    Started,
    Timings,
    Usage,
)
from ternion.v1.inference_pb2 import Failed as FailedFrame

Event: TypeAlias = Queued | Started | Delta | Finished
"""One of the messages that a request's stream is made of, in this order."""


class Failed(NamedTuple):
    """A request of a session was refused or failed, and has ended."""

    error: TernionError
    """The error that ``generate`` would have raised."""
    usage: Usage | None
    """``None`` if it was refused before it ran."""
    timings: Timings | None
    """``None`` if it was refused before it ran."""


class SessionEvent(NamedTuple):
    """What one request of a session tells."""

    request_id: str
    """The id given to ``start``."""
    event: Event | Failed
    """As from ``generate``, or why there is nothing more."""


def event_in(response: GenerateResponse) -> Event | None:
    """Return the event, or nothing: a newer server may have others."""
    match response.WhichOneof("frame"):
        case "queued":
            return response.queued
        case "started":
            return response.started
        case "delta":
            return response.delta
        case "finished":
            return response.finished
        case _:
            return None


def session_event_in(response: SessionResponse) -> SessionEvent | None:
    """Return the event, or nothing: a newer server may have others."""
    event: Event | Failed
    match response.WhichOneof("frame"):
        case "queued":
            event = response.queued
        case "started":
            event = response.started
        case "delta":
            event = response.delta
        case "finished":
            event = response.finished
        case "failed":
            event = _failed(response.failed)
        case _:
            return None
    return SessionEvent(response.request_id, event)


def _failed(frame: FailedFrame) -> Failed:
    return Failed(
        error=from_status(frame.status),
        usage=frame.usage if frame.HasField("usage") else None,
        timings=frame.timings if frame.HasField("timings") else None,
    )
