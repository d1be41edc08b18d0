"""Errors out of statuses, and out of what can't be sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from ternion.errors import (
    Cancelled,
    DeadlineExceeded,
    Denied,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    TernionError,
    TransportError,
    Unavailable,
)

_DETAILS = "grpc-status-details-bin"

_CAUSES: dict[int, type[TernionError]] = {
    Code.INVALID_ARGUMENT: InvalidArgument,
    Code.OUT_OF_RANGE: InvalidArgument,
    Code.ALREADY_EXISTS: InvalidArgument,
    Code.FAILED_PRECONDITION: InvalidArgument,
    Code.UNIMPLEMENTED: InvalidArgument,
    Code.NOT_FOUND: NotFound,
    Code.UNAUTHENTICATED: Denied,
    Code.PERMISSION_DENIED: Denied,
    Code.RESOURCE_EXHAUSTED: ResourceExhausted,
    Code.UNAVAILABLE: Unavailable,
    Code.DEADLINE_EXCEEDED: DeadlineExceeded,
    Code.CANCELLED: Cancelled,
}


class _Ended(Protocol):
    """What grpc's own exceptions, of either kind of channel, have in common."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def from_status(status: Status) -> TernionError:
    """Error for a status that came in a frame of a session."""
    return _CAUSES.get(status.code, Internal)(status.message, status)


def from_rpc(error: grpc.RpcError) -> TernionError:
    """Error for the end of a call."""
    ended = cast(_Ended, error)
    trailers = [(name, value) for name, value in ended.trailing_metadata() or ()]
    status = Status(code=ended.code().value[0], message=ended.details() or "")
    for name, value in trailers:
        if name == _DETAILS and isinstance(value, bytes):
            status.details.extend(_details(value).details)
    # A status made on this side, out of a failure to talk to the server, comes
    # with nothing that a peer has sent.
    if not trailers and status.code == Code.UNAVAILABLE:
        return TransportError(status.message, status)
    # grpc's own words for it are about its streams.
    if status.code == Code.DEADLINE_EXCEEDED and "Deadline Exceeded" in status.message:
        status.message = "the request's time was over before the server was through with it"
    return from_status(status)


def _details(trailer: bytes) -> Status:
    try:
        return Status.FromString(trailer)
    except DecodeError:
        return Status()


def invalid(field: str, description: str) -> InvalidArgument:
    """Error for what can't even be sent, in the form in which servers refuse."""
    status = Status(code=Code.INVALID_ARGUMENT, message=f"{field}: {description}")
    bad = BadRequest(
        field_violations=[BadRequest.FieldViolation(field=field, description=description)]
    )
    status.details.add().Pack(bad)
    return InvalidArgument(status.message, status)


def closed(what: str) -> TransportError:
    """Error for the use of something that its owner has closed."""
    message = f"the {what} is closed"
    return TransportError(message, Status(code=Code.UNAVAILABLE, message=message))
