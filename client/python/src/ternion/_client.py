"""The client for threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TypeVar

import grpc
from typing_extensions import Self, Unpack

from ternion._endpoint import Endpoint, File, resolve
from ternion._events import Events
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
from ternion._session import Session
from ternion._status import closed, from_rpc
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
    """Make a client. The first call connects, and fails if it can't.

    - ``endpoint``: such as ``http://127.0.0.1:50051``, or ``https://`` for TLS.
      ``host:port`` alone speaks TLS if certificates are given.
    - ``api_key``: sent with each call.
    - ``ca``: PEM file of the authorities to trust instead of the usual ones.
    - ``client_certificate``, ``client_key``: PEM files to be known by.
    - ``timeout``: seconds for each call that has none of its own, to the last
      token for those that stream. Default: no limit.
    - ``keepalive``: seconds after which a quiet connection with running calls
      is asked for a sign of life.
    - ``round_robin``: spread calls over all addresses of the host, as those of
      a headless Kubernetes service. Otherwise the first one that answers.
    - ``retries``: times that a call is tried again before its first answer,
      when there is no connection or an unavailable server asks to come back
      within ten seconds.
    """
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
    """A connection to a server, for any number of threads; made by ``connect``.

    Each method has a ``timeout``: seconds, instead of the client's own.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._closed = False
        self._channel = (
            grpc.insecure_channel(endpoint.target, endpoint.options)
            if endpoint.credentials is None
            else grpc.secure_channel(endpoint.target, endpoint.credentials, endpoint.options)
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
        ) -> grpc._CallIterator[GenerateResponse]:
            return self._open(
                lambda: self._inference.Generate(
                    message, timeout=time_left, metadata=self._endpoint.metadata
                )
            )

        def resume(
            last_seq: int | None, time_left: float | None
        ) -> grpc._CallIterator[GenerateResponse]:
            return call(resume_request(request.request_id, last_seq), time_left)

        return Events(
            lambda time_left: call(request, time_left),
            self._attempts(timeout),
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
            lambda frames: self._open(
                lambda: self._inference.Session(frames, metadata=self._endpoint.metadata)
            ),
            self._endpoint.timeout,
            self._endpoint.retries,
        )

    def tokenize(
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
        return list(self._call(self._inference.Tokenize, request, timeout).token_ids)

    def detokenize(
        self,
        *,
        token_ids: Iterable[int],
        model: str | None = None,
        skip_special: bool | None = None,
        timeout: float | None = None,
    ) -> str:
        """Return the text of ids. Bytes that are no UTF-8 become replacement characters."""
        request = detokenize_request(token_ids=token_ids, model=model, skip_special=skip_special)
        return self._call(self._inference.Detokenize, request, timeout).text

    def count_tokens(
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
        return self._call(self._inference.CountTokens, request, timeout)

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Return the models that are served."""
        return list(self._call(self._models.List, ListRequest(), timeout).models)

    def model(self, name: str, *, timeout: float | None = None) -> ModelInfo:
        """Return one model by name."""
        return self._call(self._models.Get, GetRequest(name=name), timeout).model

    def list_requests(self, *, timeout: float | None = None) -> list[LiveRequest]:
        """Return the tenant's requests that are alive, oldest first."""
        request = RequestServiceListRequest()
        return list(self._call(self._requests.List, request, timeout).requests)

    def cancel_request(self, request_id: str, *, timeout: float | None = None) -> int:
        """End the tenant's requests that are alive under an id, and return how many."""
        request = RequestServiceCancelRequest(request_id=request_id)
        return self._call(self._requests.Cancel, request, timeout).cancelled

    def kernels(self, *, timeout: float | None = None) -> list[Kernel]:
        """Return the kernel plugins that the server found, and what became of each."""
        return list(self._call(self._admin.Kernels, KernelsRequest(), timeout).kernels)

    def load(self, *, timeout: float | None = None) -> LoadResponse:
        """Return what the server is doing now."""
        return self._call(self._admin.Load, LoadRequest(), timeout)

    def drain(self, *, timeout: float | None = None) -> DrainResponse:
        """Tell the server to take no new requests, finish those that run, and exit.

        Returns at once.
        """
        return self._call(self._admin.Drain, DrainRequest(), timeout)

    def close(self) -> None:
        """Close the connection. What runs on it is cancelled."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _attempts(self, timeout: float | None) -> Attempts:
        timeout = self._endpoint.timeout if timeout is None else timeout
        return Attempts(timeout=timeout, retries=self._endpoint.retries)

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: float | None,
    ) -> _Response:
        attempts = self._attempts(timeout)
        while True:
            try:
                return self._open(
                    lambda: method(
                        request, timeout=attempts.time_left(), metadata=self._endpoint.metadata
                    )
                )
            except grpc.RpcError as ended:
                error = from_rpc(ended)
            pause = attempts.pause(error)
            if pause is None:
                raise error
            time.sleep(pause)

    def _open(self, call: Callable[[], _Call]) -> _Call:
        try:
            return call()
        except ValueError:
            # What grpc raises when its channel is closed.
            if self._closed:
                raise closed("client") from None
            raise
