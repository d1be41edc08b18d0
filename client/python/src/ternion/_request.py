"""Requests out of keyword arguments."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypedDict, TypeVar

from google.protobuf.message import Message

from ternion._status import invalid
from ternion.v1.inference_pb2 import (
    Cancel,
    ChatInput,
    ChatMessage,
    CountTokensRequest,
    DetokenizeRequest,
    GenerateRequest,
    Resume,
    Sampling,
    SessionRequest,
    Start,
    Stopping,
    TokenIds,
    TokenizeRequest,
)

_INPUT = ("text", "messages", "token_ids")
_SAMPLING = frozenset(Sampling.DESCRIPTOR.fields_by_name)
_STOPPING = frozenset(Stopping.DESCRIPTOR.fields_by_name)
_REST = frozenset(GenerateRequest.DESCRIPTOR.fields_by_name) - {
    "text",
    "chat",
    "token_ids",
    "sampling",
    "stopping",
    "resume",
}

_MOST_MILLISECONDS = 2**32 - 1


class SamplingArguments(TypedDict, total=False):
    """How the next token is drawn. What is absent takes the model's default."""

    temperature: float | None
    """0 is greedy; at most 100."""
    top_k: int | None
    """Only the k most probable tokens. 0: all."""
    top_p: float | None
    """The smallest set of tokens with at least this probability, in (0, 1]."""
    min_p: float | None
    """Tokens with at least this share of the best one's probability, in [0, 1]."""
    seed: int | None
    """Same seed, same request: same tokens. Absent: the server's, told in ``Started``."""
    repetition_penalty: float | None
    """In (0, 10], 1 is off."""
    presence_penalty: float | None
    """In [-2, 2]."""
    frequency_penalty: float | None
    """In [-2, 2]."""


class StoppingArguments(TypedDict, total=False):
    """When to end."""

    max_tokens: int | None
    """Most tokens to generate. Absent: what the context leaves."""
    min_tokens: int | None
    """End tokens and stop strings are ignored before this many tokens."""
    stop: str | Iterable[str] | None
    """Ends before the first occurrence of one of these."""
    stop_token_ids: Iterable[int] | None
    ignore_eos: bool | None
    """Go on past the model's end tokens."""
    include_stop: bool | None
    """Show the stop string that ended the text."""


class RequestArguments(SamplingArguments, StoppingArguments, total=False):
    """What ``generate`` and ``chat`` have in common, beside the input."""

    model: str | None
    """Name of a served model; not needed where a server has one."""
    parse_special: bool | None
    """For text: read special tokens written in it. Default true."""
    add_bos: bool | None
    """For text: begin with the model's beginning-of-text token. Default true."""
    priority: int | None
    """Higher runs first when requests wait. Default 0, from -100 to 100."""
    logprobs: int | None
    """Log-probabilities of each token: 0 for the chosen one only, up to 20 alternatives."""
    n: int | None
    """Samples: so many answers to the one prompt, which is computed once. Each ``Delta`` and
    ``Finished`` has the ``index`` of its sample; its seed is that of ``Started`` plus the index."""
    resumable: bool | None
    """Survive a connection that breaks: the events are read on, without a gap, over another one,
    as long as the server waits for its clients. It outlives its events: ``cancel_request`` ends
    it, and else the server after a while."""
    idempotency_key: str | None
    """Sent again under the same key, also by another process, the request is generated once: its
    events come from the first."""
    request: GenerateRequest | None
    """A whole message, which the other arguments are laid over."""


class GenerateArguments(RequestArguments, total=False):
    """Arguments of a request: one input, and how to continue it."""

    text: str | None
    """A raw prompt."""
    messages: Iterable[ChatMessage | Mapping[str, str]] | None
    """A conversation, rendered with the model's chat template."""
    token_ids: Iterable[int] | None
    """Taken as they are; nothing is added."""


def user(content: str) -> ChatMessage:
    """Make a message by the user."""
    return ChatMessage(role="user", content=content)


def assistant(content: str) -> ChatMessage:
    """Make a message by the model, for the history of a conversation."""
    return ChatMessage(role="assistant", content=content)


def system(content: str) -> ChatMessage:
    """Make instructions for the model, before everything else."""
    return ChatMessage(role="system", content=content)


def generate_request(
    arguments: GenerateArguments, *, request_id: str | None = None
) -> GenerateRequest:
    """Build the message; arguments that are ``None`` count as absent."""
    given = _without_absent({**arguments, "request_id": request_id})
    message = GenerateRequest()
    base = given.pop("request", None)
    if base is not None:
        message.CopyFrom(base)
    _set_input(message, {name: given.pop(name) for name in _INPUT if name in given})
    for name, value in given.items():
        if name in _SAMPLING:
            _set(message.sampling, name, value, path=f"sampling.{name}")
        elif name in _STOPPING:
            listed = [value] if name == "stop" and isinstance(value, str) else value
            _set(message.stopping, name, listed, path=f"stopping.{name}")
        elif name in _REST:
            _set(message, name, value, path=name)
        else:
            raise TypeError(f"unexpected keyword argument {name!r}")
    return message


def named(request: GenerateRequest) -> GenerateRequest:
    """Give a resumable request the id that it needs.

    And a key besides, so that it may be sent again if nothing was heard of it.
    """
    if request.resumable and not request.request_id:
        request.request_id = uuid.uuid4().hex
        request.idempotency_key = request.idempotency_key or request.request_id
    return request


def resume_request(request_id: str, last_seq: int | None) -> GenerateRequest:
    """Build the message that asks for what follows a frame of a request."""
    return GenerateRequest(resume=Resume(request_id=request_id, last_seq=last_seq))


def tokenize_request(**arguments: Any) -> TokenizeRequest:
    """Build the message; arguments that are ``None`` count as absent."""
    return _filled(TokenizeRequest(), arguments)


def detokenize_request(**arguments: Any) -> DetokenizeRequest:
    """Build the message; arguments that are ``None`` count as absent."""
    message = DetokenizeRequest()
    for name, value in _without_absent(arguments).items():
        _set(message, name, value, path=name)
    return message


def count_tokens_request(**arguments: Any) -> CountTokensRequest:
    """Build the message; arguments that are ``None`` count as absent."""
    return _filled(CountTokensRequest(), arguments)


def start_frame(request_id: str, request: GenerateRequest, timeout: float | None) -> SessionRequest:
    """Build the frame that starts a request of a session."""
    start = Start(request=request)
    if timeout is not None:
        # Rounded up, so that a short time does not become none.
        start.timeout_ms = math.ceil(min(max(timeout * 1000, 0), _MOST_MILLISECONDS))
    return _frame(request_id, SessionRequest(start=start))


def cancel_frame(request_id: str) -> SessionRequest:
    """Build the frame that ends a request of a session."""
    return _frame(request_id, SessionRequest(cancel=Cancel()))


def _without_absent(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def _frame(request_id: str, frame: SessionRequest) -> SessionRequest:
    _set(frame, "request_id", request_id, path="request_id")
    return frame


_Input = TypeVar("_Input", TokenizeRequest, CountTokensRequest)


def _filled(message: _Input, arguments: dict[str, Any]) -> _Input:
    given = _without_absent(arguments)
    _set_input(message, {name: given.pop(name) for name in _INPUT if name in given})
    for name, value in given.items():
        _set(message, name, value, path=name)
    return message


def _set_input(
    message: GenerateRequest | TokenizeRequest | CountTokensRequest, given: dict[str, Any]
) -> None:
    if len(given) > 1:
        raise TypeError(f"{' and '.join(given)} exclude each other")
    for name, value in given.items():
        match name:
            case "text":
                _set(message, "text", value, path="text")
            case "messages":
                message.chat.CopyFrom(_chat(value))
            case "token_ids" if not isinstance(message, TokenizeRequest):
                message.token_ids.CopyFrom(TokenIds())
                _set(message.token_ids, "ids", value, path="token_ids")


def _chat(messages: Iterable[ChatMessage | Mapping[str, str]]) -> ChatInput:
    chat = ChatInput()
    for index, message in enumerate(messages):
        with _blamed_on(f"chat.messages[{index}]"):
            chat.messages.append(
                message if isinstance(message, ChatMessage) else ChatMessage(**message)
            )
    return chat


def _set(message: Message, name: str, value: Any, *, path: str) -> None:
    with _blamed_on(path):
        if message.DESCRIPTOR.fields_by_name[name].is_repeated:
            message.ClearField(name)
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)


@contextmanager
def _blamed_on(path: str) -> Iterator[None]:
    """Say which field can't hold its value: the protobuf library doesn't."""
    try:
        yield
    except ValueError as error:
        raise invalid(path, str(error)) from None
    except TypeError as error:
        raise TypeError(f"{path}: {error}") from None
