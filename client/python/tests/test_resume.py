from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from server import Server

import ternion
from ternion import aio
from ternion._request import GenerateArguments

# Large frames, so that few of them are on their way when a connection is cut.
LONG: GenerateArguments = {
    "text": "Once upon a time",
    "temperature": 0,
    "max_tokens": 900,
    "ignore_eos": True,
    "logprobs": 20,
}


class Relay:
    """Forwards connections to a server, until it cuts them."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.connections = 0
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        ends, self._open = self._open, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self.connections += 1
                self._open += [client, server]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=_forward, args=ends, daemon=True).start()


def _forward(source: socket.socket, to: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            to.sendall(data)
    with suppress(OSError):
        to.shutdown(socket.SHUT_RDWR)


@contextmanager
def relay_to(server: Server) -> Iterator[Relay]:
    relay = Relay(server.endpoint.removeprefix("http://"))
    try:
        yield relay
    finally:
        relay.close()


def test_events_are_read_on_after_a_cut(start: Callable[..., Server]) -> None:
    server = start("--outbox-capacity", "4")
    with ternion.connect(endpoint=server.endpoint) as direct:
        whole = "".join(direct.generate(**LONG).texts())
    with relay_to(server) as relay, ternion.connect(endpoint=relay.endpoint) as client:
        pieces: list[str] = []
        events = client.generate(**LONG, resumable=True)
        for text in events.texts():
            pieces.append(text)
            if len(pieces) in (50, 200):
                relay.cut()
        assert "".join(pieces) == whole
        assert events.finished is not None
        assert events.finished.usage.completion_tokens == 900
        assert relay.connections > 1


def test_and_with_asyncio(start: Callable[..., Server]) -> None:
    server = start("--outbox-capacity", "4")
    with ternion.connect(endpoint=server.endpoint) as direct:
        whole = "".join(direct.generate(**LONG).texts())

    async def read(relay: Relay) -> str:
        pieces: list[str] = []
        async with aio.connect(endpoint=relay.endpoint) as client:
            async for text in client.generate(**LONG, resumable=True).texts():
                pieces.append(text)
                if len(pieces) in (50, 200):
                    relay.cut()
        return "".join(pieces)

    with relay_to(server) as relay:
        assert asyncio.run(read(relay)) == whole
        assert relay.connections > 1


def test_the_same_key_generates_once(client: ternion.Client) -> None:
    request: GenerateArguments = {
        "text": "Once upon a time",
        "max_tokens": 50,
        "idempotency_key": "order 17",
    }
    first = list(client.generate(**request).texts())
    assert list(client.generate(**request).texts()) == first
    try:
        request["max_tokens"] = 3
        list(client.generate(**request))
    except ternion.InvalidArgument as error:
        assert [violation.field for violation in error.violations] == ["stopping"]
    else:
        raise AssertionError("it is another request")
