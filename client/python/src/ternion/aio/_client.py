"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TypeVar

import grpc.aio
from typing_extensions import Self, Unpack

from ternion._endpoint import Endpoint, File, resolve
from ternion._request import (
    GenerateArguments,
    RequestArguments,
    count_tokens_request,
    detokenize_request,
    generate_request,
    named,
    resume_request,
    tokenize_request,
)
from ternion._retry import Attempts
from ternion._status import closed, from_rpc
from ternion.aio._events import Events
from ternion.aio._session import Session
from ternion.v1.admin_pb2 import (
    DrainRequest,
    DrainResponse,
    Kernel,
    KernelsRequest,
    LoadRequest,
    LoadResponse,
)
from ternion.v1.admin_pb2_grpc import AdminServiceStub
from ternion.v1.inference_pb2 import (
    ChatMessage,
    CountTokensResponse,
    GenerateRequest,
    GenerateResponse,
)
from ternion.v1.inference_pb2_grpc import InferenceServiceStub
from ternion.v1.model_pb2 import GetRequest, ListRequest, ModelInfo
from ternion.v1.model_pb2_grpc import ModelServiceStub
from ternion.v1.request_pb2 import (
    LiveRequest,
    RequestServiceCancelRequest,
    RequestServiceListRequest,
)
from ternion.v1.request_pb2_grpc import RequestServiceStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Call = TypeVar("_Call")


def connect(
    *,
    endpoint: str,
    api_key: str | None = None,
    ca: File | None = None,
    client_certificate: File | None = None,
    client_key: File | None = None,
    timeout: float | None = None,
    keepalive: float = 30.0,
    round_robin: bool = True,
    retries: int = 3,
) -> Client:
    """Make a client, in the event loop that is to use it.

    The arguments are those of ``ternion.connect``.
    """
    asyncio.get_running_loop()
    return Client(
        resolve(
            endpoint=endpoint,
            api_key=api_key,
            ca=ca,
            client_certificate=client_certificate,
            client_key=client_key,
            timeout=timeout,
            keepalive=keepalive,
            round_robin=round_robin,
            retries=retries,
        )
    )


class Client:
    """A connection to a server, for the tasks of one event loop; made by ``connect``.

    Each method has a ``timeout``: seconds, instead of the client's own.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._closed = False
        self._channel = (
            grpc.aio.insecure_channel(endpoint.target, endpoint.options)
            if endpoint.credentials is None
            else grpc.aio.secure_channel(endpoint.target, endpoint.credentials, endpoint.options)
        )
        self._inference = InferenceServiceStub(self._channel)
        self._models = ModelServiceStub(self._channel)
        self._requests = RequestServiceStub(self._channel)
        self._admin = AdminServiceStub(self._channel)

    def generate(
        self,
        *,
        request_id: str | None = None,
        timeout: float | None = None,
        **arguments: Unpack[GenerateArguments],
    ) -> Events:
        """Continue ``text``, ``messages`` or ``token_ids``.

        ``request_id`` is what logs, traces and ``list_requests`` call it; the
        other arguments are those of ``GenerateArguments``.
        """
        request = named(generate_request(arguments, request_id=request_id))

        def call(
            message: GenerateRequest, time_left: float | None
        ) -> grpc.aio.UnaryStreamCall[GenerateRequest, GenerateResponse]:
            return self._open(
                lambda: self._inference.Generate(
                    message, timeout=time_left, metadata=self._endpoint.metadata
                )
            )

        def resume(
            last_seq: int | None, time_left: float | None
        ) -> grpc.aio.UnaryStreamCall[GenerateRequest, GenerateResponse]:
            return call(resume_request(request.request_id, last_seq), time_left)

        return Events(
            lambda time_left: call(request, time_left),
            self._attempts(timeout),
            self._is_closed,
            resume if request.resumable else None,
        )

    def chat(
        self,
        *,
        messages: Iterable[ChatMessage | Mapping[str, str]],
        request_id: str | None = None,
        timeout: float | None = None,
        **arguments: Unpack[RequestArguments],
    ) -> Events:
        """Answer the last message of a conversation."""
        return self.generate(messages=messages, request_id=request_id, timeout=timeout, **arguments)

    def session(self) -> Session:
        """Open a stream for many requests."""
        return Session(
            lambda: self._open(lambda: self._inference.Session(metadata=self._endpoint.metadata)),
            self._endpoint.timeout,
            self._endpoint.retries,
            self._is_closed,
        )

    async def tokenize(
        self,
        *,
        text: str | None = None,
        messages: Iterable[ChatMessage | Mapping[str, str]] | None = None,
        model: str | None = None,
        parse_special: bool | None = None,
        add_bos: bool | None = None,
        timeout: float | None = None,
    ) -> list[int]:
        """Return the ids of a text or a conversation."""
        request = tokenize_request(
            text=text, messages=messages, model=model, parse_special=parse_special, add_bos=add_bos
        )
        return list((await self._call(self._inference.Tokenize, request, timeout)).token_ids)

    async def detokenize(
        self,
        *,
        token_ids: Iterable[int],
        model: str | None = None,
        skip_special: bool | None = None,
        timeout: float | None = None,
    ) -> str:
        """Return the text of ids. Bytes that are no UTF-8 become replacement characters."""
        request = detokenize_request(token_ids=token_ids, model=model, skip_special=skip_special)
        return (await self._call(self._inference.Detokenize, request, timeout)).text

    async def count_tokens(
        self,
        *,
        text: str | None = None,
        messages: Iterable[ChatMessage | Mapping[str, str]] | None = None,
        token_ids: Iterable[int] | None = None,
        model: str | None = None,
        timeout: float | None = None,
    ) -> CountTokensResponse:
        """Return how many tokens an input would take, and how many there may be."""
        request = count_tokens_request(
            text=text, messages=messages, token_ids=token_ids, model=model
        )
        return await self._call(self._inference.CountTokens, request, timeout)

    async def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Return the models that are served."""
        return list((await self._call(self._models.List, ListRequest(), timeout)).models)

    async def model(self, name: str, *, timeout: float | None = None) -> ModelInfo:
        """Return one model by name."""
        return (await self._call(self._models.Get, GetRequest(name=name), timeout)).model

    async def list_requests(self, *, timeout: float | None = None) -> list[LiveRequest]:
        """Return the tenant's requests that are alive, oldest first."""
        request = RequestServiceListRequest()
        return list((await self._call(self._requests.List, request, timeout)).requests)

    async def cancel_request(self, request_id: str, *, timeout: float | None = None) -> int:
        """End the tenant's requests that are alive under an id, and return how many."""
        request = RequestServiceCancelRequest(request_id=request_id)
        return (await self._call(self._requests.Cancel, request, timeout)).cancelled

    async def kernels(self, *, timeout: float | None = None) -> list[Kernel]:
        """Return the kernel plugins that the server found, and what became of each."""
        return list((await self._call(self._admin.Kernels, KernelsRequest(), timeout)).kernels)

    async def load(self, *, timeout: float | None = None) -> LoadResponse:
        """Return what the server is doing now."""
        return await self._call(self._admin.Load, LoadRequest(), timeout)

    async def drain(self, *, timeout: float | None = None) -> DrainResponse:
        """Tell the server to take no new requests, finish those that run, and exit.

        Returns at once.
        """
        return await self._call(self._admin.Drain, DrainRequest(), timeout)

    async def close(self) -> None:
        """Close the connection. What runs on it is cancelled."""
        self._closed = True
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _attempts(self, timeout: float | None) -> Attempts:
        timeout = self._endpoint.timeout if timeout is None else timeout
        return Attempts(timeout=timeout, retries=self._endpoint.retries)

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: float | None,
    ) -> _Response:
        attempts = self._attempts(timeout)
        while True:
            call = self._open(
                lambda: method(
                    request, timeout=attempts.time_left(), metadata=self._endpoint.metadata
                )
            )
            try:
                return await call
            except grpc.RpcError as ended:
                error = from_rpc(ended)
            except asyncio.CancelledError:
                # grpc raises it when its channel is closed, too.
                if self._closed:
                    raise closed("client") from None
                raise
            pause = attempts.pause(error)
            if pause is None:
                raise error
            await asyncio.sleep(pause)

    def _open(self, call: Callable[[], _Call]) -> _Call:
        try:
            return call()
        except grpc.aio.UsageError:
            # What grpc raises when its channel is closed.
            if self._closed:
                raise closed("client") from None
            raise

    def _is_closed(self) -> bool:
        return self._closed
