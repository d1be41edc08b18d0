"""Requests out of keyword arguments; needs no server."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from google.protobuf.json_format import ParseDict

import ternion
from ternion._request import (
    SamplingArguments,
    StoppingArguments,
    generate_request,
    start_frame,
)
from ternion.v1.inference_pb2 import GenerateRequest, Sampling, Stopping


def test_every_argument_lands_in_its_field() -> None:
    arguments: ternion.GenerateArguments = {
        "text": "x",
        "model": "m",
        "parse_special": False,
        "add_bos": False,
        "priority": -3,
        "logprobs": 0,
        "n": 3,
        "temperature": 0,
        "top_k": 1,
        "top_p": 0.5,
        "min_p": 0.25,
        "seed": 2**64 - 1,
        "repetition_penalty": 1.5,
        "presence_penalty": -0.5,
        "frequency_penalty": 2,
        "max_tokens": 7,
        "min_tokens": 2,
        "stop": ["a", "b"],
        "stop_token_ids": (1, 2),
        "ignore_eos": True,
        "include_stop": False,
    }
    expected = {
        "text": "x",
        "model": "m",
        "parse_special": False,
        "add_bos": False,
        "priority": -3,
        "logprobs": 0,
        "n": 3,
        "request_id": "r",
        "sampling": {
            "temperature": 0,
            "top_k": 1,
            "top_p": 0.5,
            "min_p": 0.25,
            "seed": str(2**64 - 1),
            "repetition_penalty": 1.5,
            "presence_penalty": -0.5,
            "frequency_penalty": 2,
        },
        "stopping": {
            "max_tokens": 7,
            "min_tokens": 2,
            "stop": ["a", "b"],
            "stop_token_ids": [1, 2],
            "ignore_eos": True,
            "include_stop": False,
        },
    }
    request = generate_request(arguments, request_id="r")
    assert request == ParseDict(expected, GenerateRequest())


def test_a_field_that_the_protocol_gains_is_missed_here() -> None:
    assert set(get_type_hints(SamplingArguments)) == set(Sampling.DESCRIPTOR.fields_by_name)
    assert set(get_type_hints(StoppingArguments)) == set(Stopping.DESCRIPTOR.fields_by_name)
    own = set(get_type_hints(ternion.RequestArguments)) - {"request"}
    own -= set(get_type_hints(SamplingArguments)) | set(get_type_hints(StoppingArguments))
    of_the_protocol = set(GenerateRequest.DESCRIPTOR.fields_by_name)
    assert own == of_the_protocol - {
        "text",
        "chat",
        "token_ids",
        "sampling",
        "stopping",
        "request_id",
        # The client's own, when it comes back.
        "resume",
    }


def test_none_is_absent() -> None:
    request = generate_request({"text": "x", "temperature": None, "stop": None, "request": None})
    assert request == GenerateRequest(text="x")


@pytest.mark.parametrize(
    "message", [ternion.user("hi"), {"role": "user", "content": "hi"}], ids=["message", "mapping"]
)
def test_messages_are_messages_or_mappings(message: Any) -> None:
    request = generate_request({"messages": [message]})
    assert [(each.role, each.content) for each in request.chat.messages] == [("user", "hi")]


def test_a_stop_string_alone_is_no_list_of_characters() -> None:
    assert list(generate_request({"text": "x", "stop": "end"}).stopping.stop) == ["end"]


def test_arguments_are_laid_over_a_whole_message() -> None:
    whole = GenerateRequest(text="x", stopping=Stopping(max_tokens=3, stop=["a"]))
    request = generate_request({"request": whole, "stop": ["b"], "token_ids": [5]})
    assert (request.stopping.max_tokens, list(request.stopping.stop)) == (3, ["b"])
    assert list(request.token_ids.ids) == [5]
    assert whole.text == "x", "what was given stays as it is"


def test_an_empty_list_of_ids_is_an_input() -> None:
    assert generate_request({"token_ids": []}).WhichOneof("input") == "token_ids"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"max_tokens": -1}, "stopping.max_tokens"),
        ({"seed": 2**64}, "sampling.seed"),
        ({"token_ids": [1, 2**32]}, "token_ids"),
        ({"text": "\ud800"}, "text"),
        ({"stop": ["a", "\ud800"]}, "stopping.stop"),
        (
            {"messages": [ternion.user("x"), {"role": "user", "text": "x"}]},
            "chat.messages[1]",
        ),
    ],
)
def test_what_no_message_can_hold_is_refused_by_field(arguments: Any, field: str) -> None:
    with pytest.raises(ternion.InvalidArgument) as refused:
        generate_request(arguments)
    assert refused.value.fields == (field,)
    assert refused.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"max_tokens": "many"}, "stopping.max_tokens"),
        ({"max_token": 1}, "max_token"),
        ({"text": "x", "token_ids": [1]}, "text and token_ids"),
        ({"messages": "hello"}, r"chat\.messages\[0\]"),
    ],
)
def test_slips_are_type_errors_that_name_the_argument(arguments: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        generate_request(arguments)


@pytest.mark.parametrize(
    ("timeout", "milliseconds"),
    [(1.5, 1500), (0.0001, 1), (0, 0), (-1, 0), (float("inf"), 2**32 - 1)],
)
def test_a_short_time_does_not_become_none(timeout: float, milliseconds: int) -> None:
    frame = start_frame("a", GenerateRequest(), timeout)
    assert frame.start.HasField("timeout_ms")
    assert frame.start.timeout_ms == milliseconds
    assert not start_frame("a", GenerateRequest(), None).start.HasField("timeout_ms")
