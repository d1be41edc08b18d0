from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from server import Server, idle

import ternion
from ternion import aio
from ternion._request import GenerateArguments
from ternion._resumable import Resumable
from ternion.v1.inference_pb2 import GenerateRequest, SessionResponse

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


def test_events_are_read_on_after_cuts(fast_server: Server) -> None:
    with (
        relay_to(fast_server, [5_000, 10_000]) as relay,
        ternion.connect(endpoint=relay.endpoint) as client,
    ):
        events = client.generate(**RESUMABLE)
        assert "".join(events.texts()) == whole_answer(fast_server)
        assert events.finished is not None
        assert events.finished.usage.completion_tokens == 120
        assert relay.connections == 3


def test_and_with_asyncio(fast_server: Server) -> None:
    async def read(relay: Relay) -> str:
        async with aio.connect(endpoint=relay.endpoint) as client:
            return "".join([text async for text in client.generate(**RESUMABLE).texts()])

    with relay_to(fast_server, [5_000, 10_000]) as relay:
        assert asyncio.run(read(relay)) == whole_answer(fast_server)
        assert relay.connections == 3


class Heard:
    """What a session told, over all its connections."""

    def __init__(self) -> None:
        self.texts = {"a": "", "b": ""}
        self.finished = set[str]()
        self.lost = set[str]()
        self.breaks = 0

    def add_all(self, session: ternion.Session) -> None:
        for told in session:
            self.add(told)

    def add(self, told: ternion.SessionEvent) -> None:
        request_id, event = told
        if request_id == "lost":
            assert self.breaks == 0, "it is not resumable"
        elif isinstance(event, ternion.Delta):
            self.texts[request_id] += event.text
        elif isinstance(event, ternion.Finished):
            assert event.usage.completion_tokens == 120
            self.finished.add(request_id)
        elif isinstance(event, ternion.Failed):
            assert isinstance(event.error, ternion.NotFound)
            self.lost.add(request_id)


# Of two requests at once; what comes before the second cut is less than half.
# On a slow kernel, so that both run before the first.
SESSION_CUTS = [10_000, 20_000]


def test_a_session_goes_on_with_what_is_resumable(server: Server, fast_server: Server) -> None:
    heard = Heard()
    with (
        relay_to(server, SESSION_CUTS) as relay,
        ternion.connect(endpoint=relay.endpoint) as client,
        client.session() as session,
    ):
        for request_id in heard.texts:
            session.start(request_id, **RESUMABLE)
        session.start("lost", **LONG)
        session.half_close()
        while heard.breaks < 3:
            try:
                heard.add_all(session)
                break
            except ternion.TransportError:
                heard.breaks += 1
                session.reconnect()
        assert relay.connections == 3
    assert heard.breaks == 2
    whole = whole_answer(fast_server)
    assert heard.texts == {"a": whole, "b": whole}
    assert heard.finished == {"a", "b"}
    with pytest.raises(ternion.TransportError, match="the session is closed"):
        session.reconnect()


def test_a_request_goes_on_until_its_last_sample_ends() -> None:
    resumable = Resumable()
    resumable.add("a", GenerateRequest(resumable=True, n=2))
    resumable.note(SessionResponse(request_id="a", seq=3, finished=ternion.Finished(remaining=1)))
    (frame,) = resumable.frames()
    assert frame.start.request.resume.last_seq == 3
    resumable.note(SessionResponse(request_id="a", seq=5, finished=ternion.Finished(index=1)))
    assert resumable.frames() == []


def test_and_one_of_asyncio(server: Server, fast_server: Server) -> None:
    async def read(relay: Relay) -> Heard:
        heard = Heard()
        async with (
            aio.connect(endpoint=relay.endpoint) as client,
            client.session() as session,
        ):
            for request_id in heard.texts:
                await session.start(request_id, **RESUMABLE)
            await session.start("lost", **LONG)
            await session.half_close()
            while heard.breaks < 3:
                try:
                    async for event in session:
                        heard.add(event)
                    break
                except ternion.TransportError:
                    heard.breaks += 1
                    await session.reconnect()
        with pytest.raises(ternion.TransportError, match="the session is closed"):
            await session.reconnect()
        return heard

    with relay_to(server, SESSION_CUTS) as relay:
        heard = asyncio.run(read(relay))
        assert relay.connections == 3
    assert heard.breaks == 2
    whole = whole_answer(fast_server)
    assert heard.texts == {"a": whole, "b": whole}
    assert heard.finished == {"a", "b"}


def test_what_was_not_kept_fails_alone(start: Callable[..., Server]) -> None:
    # It is forgotten before anybody comes back.
    server = start("--resume-grace", "1ms", slow=False)
    heard = Heard()
    with (
        relay_to(server, [10_000]) as relay,
        ternion.connect(endpoint=relay.endpoint) as client,
        ternion.connect(endpoint=server.endpoint) as direct,
        client.session() as session,
    ):
        session.start("a", **RESUMABLE)
        with pytest.raises(ternion.TransportError):
            heard.add_all(session)
        assert idle(direct)
        session.reconnect()
        session.start("b", **RESUMABLE)
        session.half_close()
        heard.add_all(session)
    assert (heard.lost, heard.finished) == ({"a"}, {"b"})
    assert heard.texts["b"] == whole_answer(server)


def test_a_session_waits_for_a_server_that_comes_back(start: Callable[..., Server]) -> None:
    server = start()
    with (
        ternion.connect(endpoint=server.endpoint, retries=100) as client,
        ternion.connect(endpoint="http://127.0.0.1:1", retries=0) as nobody,
        client.session() as session,
        nobody.session() as broken,
    ):
        session.start("a", **RESUMABLE)
        next(session)
        server.kill()
        with pytest.raises(ternion.TransportError):
            list(session)
        start(listen=server.endpoint.removeprefix("http://"))
        session.reconnect()
        ((request_id, event),) = [next(session)]
        assert request_id == "a"
        assert isinstance(event, ternion.Failed)
        with pytest.raises(ternion.TransportError):
            next(broken)
        with pytest.raises(ternion.TransportError):
            broken.reconnect()


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
