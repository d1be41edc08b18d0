"""Errors by cause; needs no server."""

from __future__ import annotations

import pickle

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status

import ternion
from ternion._status import from_rpc, from_status


def status(code: grpc.StatusCode, message: str, *details: Message) -> Status:
    status = Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return status


def in_trailers(status: Status, trailer: bytes | None = None) -> ternion.TernionError:
    """The error of a call that ended with this status."""
    codes = {code.value[0]: code for code in grpc.StatusCode}
    trailers = grpc.aio.Metadata(
        ("grpc-status-details-bin", status.SerializeToString() if trailer is None else trailer)
    )
    return from_rpc(
        grpc.aio.AioRpcError(
            codes[status.code], grpc.aio.Metadata(), trailers, details=status.message
        )
    )


def bad_request(*violations: tuple[str, str]) -> BadRequest:
    return BadRequest(
        field_violations=[
            BadRequest.FieldViolation(field=field, description=description)
            for field, description in violations
        ]
    )


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, ternion.InvalidArgument),
        (grpc.StatusCode.OUT_OF_RANGE, ternion.InvalidArgument),
        (grpc.StatusCode.ALREADY_EXISTS, ternion.InvalidArgument),
        (grpc.StatusCode.FAILED_PRECONDITION, ternion.InvalidArgument),
        (grpc.StatusCode.UNIMPLEMENTED, ternion.InvalidArgument),
        (grpc.StatusCode.NOT_FOUND, ternion.NotFound),
        (grpc.StatusCode.UNAUTHENTICATED, ternion.Denied),
        (grpc.StatusCode.PERMISSION_DENIED, ternion.Denied),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ternion.ResourceExhausted),
        (grpc.StatusCode.UNAVAILABLE, ternion.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, ternion.DeadlineExceeded),
        (grpc.StatusCode.CANCELLED, ternion.Cancelled),
        (grpc.StatusCode.INTERNAL, ternion.Internal),
        (grpc.StatusCode.UNKNOWN, ternion.Internal),
        (grpc.StatusCode.DATA_LOSS, ternion.Internal),
        (grpc.StatusCode.ABORTED, ternion.Internal),
    ],
)
def test_codes_are_sorted_by_cause(code: grpc.StatusCode, kind: type[ternion.TernionError]) -> None:
    for error in [in_trailers(status(code, "why")), from_status(status(code, "why"))]:
        assert type(error) is kind
        assert error.code == code.name
        assert str(error) == "why"


def test_fields_of_a_bad_request_are_named() -> None:
    details = bad_request(("sampling.top_p", "is 0"), ("priority", "is 101"))
    error = in_trailers(status(grpc.StatusCode.INVALID_ARGUMENT, "bad request", details))
    assert isinstance(error, ternion.InvalidArgument)
    assert error.violations == (("sampling.top_p", "is 0"), ("priority", "is 101"))
    assert error.fields == ("sampling.top_p", "priority")
    assert str(error) == "bad request\n  sampling.top_p: is 0\n  priority: is 101"


def test_what_the_message_says_is_not_said_again() -> None:
    details = bad_request(("priority", "is 101"))
    error = from_status(status(grpc.StatusCode.INVALID_ARGUMENT, "priority: is 101", details))
    assert str(error) == "priority: is 101"


def test_a_delay_survives_both_ways_a_status_travels() -> None:
    delay = RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))
    busy = status(grpc.StatusCode.UNAVAILABLE, "draining", delay)
    for error in [in_trailers(busy), from_status(busy)]:
        assert isinstance(error, ternion.Unavailable)
        assert error.retry_after == 1.5


@pytest.mark.parametrize(
    ("delay", "retry_after"),
    [
        (RetryInfo(), None),
        (RetryInfo(retry_delay=Duration()), 0.0),
        (RetryInfo(retry_delay=Duration(seconds=-5)), 0.0),
        (RetryInfo(retry_delay=Duration(seconds=2**63 - 1, nanos=-1)), pytest.approx(2.0**63)),
    ],
)
def test_odd_delays(delay: RetryInfo, retry_after: float | None) -> None:
    error = from_status(status(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", delay))
    assert error.retry_after == retry_after


def test_what_was_not_found_is_named() -> None:
    info = ResourceInfo(resource_type="model", resource_name="gpt-17")
    error = from_status(status(grpc.StatusCode.NOT_FOUND, "no such model", info))
    assert isinstance(error, ternion.NotFound)
    assert error.resource == ("model", "gpt-17")


@pytest.mark.parametrize("trailer", [b"", b"\xff\xff\xff", b"\x1a\x7fshort"])
def test_broken_details_cost_the_details_alone(trailer: bytes) -> None:
    refused = status(grpc.StatusCode.INVALID_ARGUMENT, "bad", bad_request(("text", "is long")))
    error = in_trailers(refused, trailer)
    assert isinstance(error, ternion.InvalidArgument)
    assert (str(error), error.fields) == ("bad", ())


def test_a_broken_detail_hides_no_other() -> None:
    refused = status(
        grpc.StatusCode.INVALID_ARGUMENT, "bad", bad_request(), bad_request(("text", "is long"))
    )
    refused.details[0].value = b"\xff"
    error = from_status(refused)
    assert isinstance(error, ternion.InvalidArgument)
    assert error.fields == ("text",)


def test_a_code_that_nobody_knows_is_internal() -> None:
    error = from_status(Status(code=99))
    assert type(error) is ternion.Internal
    assert str(error) == error.code == "UNKNOWN"


def test_errors_go_from_process_to_process() -> None:
    details = bad_request(("text", "is long"))
    error = from_status(status(grpc.StatusCode.OUT_OF_RANGE, "long", details))
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, ternion.InvalidArgument)
    assert (again.code, again.fields, str(again)) == ("OUT_OF_RANGE", ("text",), str(error))
