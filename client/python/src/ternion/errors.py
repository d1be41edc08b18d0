"""Why a call failed, by what its caller can do about it."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status

_Detail = TypeVar("_Detail", bound=Message)


class Violation(NamedTuple):
    """One field of a request and what is wrong with it."""

    field: str
    """Path of the field, such as ``sampling.temperature``."""
    description: str
    """What it must be, and what it was."""


class Resource(NamedTuple):
    """What was not found."""

    kind: str
    """Kind of thing, such as ``model``."""
    name: str
    """Its name, as asked for."""


class TernionError(Exception):
    """Any failure of a call. Its subclasses tell what can be done about it."""

    def __init__(self, message: str, status: Status | None = None) -> None:
        super().__init__(message, status)
        self.message = message
        self.status = status
        """As received, for details that have no place here."""

    def __str__(self) -> str:
        return self.message or self.code

    @property
    def code(self) -> str:
        """Name of the gRPC status code, such as ``OUT_OF_RANGE``."""
        if self.status is None or self.status.code not in Code.values():
            return "UNKNOWN"
        return Code.Name(self.status.code)

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to wait before trying again."""
        info = self._detail(RetryInfo)
        if info is None or not info.HasField("retry_delay"):
            return None
        return max(0.0, info.retry_delay.seconds + info.retry_delay.nanos / 1e9)

    def _detail(self, kind: type[_Detail]) -> _Detail | None:
        for packed in self.status.details if self.status is not None else ():
            detail = kind()
            try:
                if packed.Unpack(detail):
                    return detail
            except DecodeError:
                continue
        return None


class InvalidArgument(TernionError):
    """The request is wrong, or this server can't do it at all.

    Sending it again gives the same answer. Its code is ``INVALID_ARGUMENT``,
    ``OUT_OF_RANGE``, ``ALREADY_EXISTS``, ``FAILED_PRECONDITION`` or
    ``UNIMPLEMENTED``.
    """

    def __str__(self) -> str:
        unsaid = (
            f"\n  {field}: {description}"
            for field, description in self.violations
            if description not in self.message
        )
        return super().__str__() + "".join(unsaid)

    @property
    def violations(self) -> tuple[Violation, ...]:
        """What is wrong, field by field."""
        bad = self._detail(BadRequest)
        violations = bad.field_violations if bad is not None else ()
        return tuple(Violation(each.field, each.description) for each in violations)

    @property
    def fields(self) -> tuple[str, ...]:
        """Paths of the fields that are wrong, such as ``sampling.temperature``."""
        return tuple(violation.field for violation in self.violations)


class NotFound(TernionError):
    """The named thing, usually a model, is not there."""

    @property
    def resource(self) -> Resource | None:
        """What was asked for."""
        info = self._detail(ResourceInfo)
        return None if info is None else Resource(info.resource_type, info.resource_name)


class Denied(TernionError):
    """The caller is unknown (``UNAUTHENTICATED``) or may not do this (``PERMISSION_DENIED``)."""


class ResourceExhausted(TernionError):
    """A queue is full or a quota is used up; ``retry_after`` says for how long, if known."""


class Unavailable(TernionError):
    """The server takes no requests now: it is starting or draining."""


class DeadlineExceeded(TernionError):
    """The request's time was over before it was through."""


class Cancelled(TernionError):
    """The request was cancelled."""


class Internal(TernionError):
    """The server failed; its operator finds more in its log."""


class TransportError(TernionError):
    """No connection to the server, or the one there was broke."""
