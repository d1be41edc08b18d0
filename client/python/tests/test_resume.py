from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from server import Server

import ternion
from ternion import aio
from ternion._request import GenerateArguments

# Of large frames, some 40 KB in all: more than goes through before a cut.
LONG: GenerateArguments = {
    "text": "Once upon a time",
    "temperature": 0,
    "max_tokens": 120,
    "ignore_eos": True,
    "logprobs": 20,
}
RESUMABLE: GenerateArguments = {**LONG, "resumable": True}


class Relay:
    """Forwards connections to a server, and breaks the first ones.

    One for each of ``cuts``, once so many bytes of the server have gone over it.
    """

    def __init__(self, endpoint: str, cuts: list[int]) -> None:
        host, port = endpoint.removeprefix("http://").rsplit(":", 1)
        self._server = (host, int(port))
        self._cuts = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.connections = 0
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # Wakes the thread that accepts.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                cut = self._cuts[self.connections] if self.connections < len(self._cuts) else None
                self.connections += 1
                threading.Thread(target=_relay, args=(client, server, cut), daemon=True).start()


def _relay(client: socket.socket, server: socket.socket, cut: int | None) -> None:
    with client, server:
        asking = threading.Thread(target=_forward, args=(client, server, None), daemon=True)
        asking.start()
        _forward(server, client, cut)
        asking.join()


def _forward(source: socket.socket, to: socket.socket, cut: int | None) -> None:
    count = 0
    with suppress(OSError):
        while data := source.recv(4096):
            to.sendall(data)
            count += len(data)
            if cut is not None and count >= cut:
                break
    for end in (source, to):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def relay_to(server: Server, cuts: list[int]) -> Iterator[Relay]:
    relay = Relay(server.endpoint, cuts)
    try:
        yield relay
    finally:
        relay.close()


def whole_answer(server: Server) -> str:
    with ternion.connect(endpoint=server.endpoint) as client:
        return "".join(client.generate(**LONG).texts())


def test_events_are_read_on_after_cuts(server: Server) -> None:
    with (
        relay_to(server, [5_000, 10_000]) as relay,
        ternion.connect(endpoint=relay.endpoint) as client,
    ):
        events = client.generate(**RESUMABLE)
        assert "".join(events.texts()) == whole_answer(server)
        assert events.finished is not None
        assert events.finished.usage.completion_tokens == 120
        assert relay.connections == 3


def test_and_with_asyncio(server: Server) -> None:
    async def read(relay: Relay) -> str:
        async with aio.connect(endpoint=relay.endpoint) as client:
            return "".join([text async for text in client.generate(**RESUMABLE).texts()])

    with relay_to(server, [5_000, 10_000]) as relay:
        assert asyncio.run(read(relay)) == whole_answer(server)
        assert relay.connections == 3


def test_the_same_key_generates_once(client: ternion.Client) -> None:
    request: GenerateArguments = {
        "text": "Once upon a time",
        "max_tokens": 50,
        "idempotency_key": "order 17",
    }
    first = list(client.generate(**request).texts())
    assert list(client.generate(**request).texts()) == first
    request["max_tokens"] = 3
    with pytest.raises(ternion.InvalidArgument) as refused:
        list(client.generate(**request))
    assert [violation.field for violation in refused.value.violations] == ["stopping"]
