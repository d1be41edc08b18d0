"""TLS, credentials, tenants: against a real server that has them."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from server import LONG, Server, become_true, cut_short

import ternion
import ternion.aio

KEYS = {name: f"tn_{secrets.token_urlsafe(32)}" for name in ("acme", "other", "once", "admin")}
SAN = "acme.test"


class Files(NamedTuple):
    """Written for one run."""

    ca: Path
    other_ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    tenants: Path

    @property
    def tls(self) -> list[str]:
        return [f"--tls-certificate={self.server}", f"--tls-key={self.server_key}"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory = tmp_path_factory.mktemp("access")
    files = Files(*(directory / f"{name}.pem" for name in Files._fields))
    ca = trustme.CA()
    ca.cert_pem.write_to_path(files.ca)
    trustme.CA().cert_pem.write_to_path(files.other_ca)
    server = ca.issue_cert("localhost", "127.0.0.1")
    server.cert_chain_pems[0].write_to_path(files.server)
    server.private_key_pem.write_to_path(files.server_key)
    client = ca.issue_cert(SAN)
    client.cert_chain_pems[0].write_to_path(files.client)
    client.private_key_pem.write_to_path(files.client_key)
    files.tenants.write_text(tenants())
    return files


def tenants() -> str:
    def tenant(name: str, rest: str = "") -> str:
        digest = hashlib.sha256(KEYS[name].encode()).hexdigest()
        return f"""
[[tenants]]
name = "{name}"
{"roles = ['inference', 'admin']" if name == "admin" else ""}
[[tenants.keys]]
id = "1"
hash = "sha256:{digest}"
{rest}"""

    return (
        tenant("acme", f'[[tenants.certificates]]\nsan = "{SAN}"\n')
        + tenant("other")
        + tenant("once", "[tenants.limits]\nrequests_per_minute = 1\n")
        + tenant("admin")
    )


@pytest.fixture(scope="module")
def closed(program: str, files: Files) -> Iterator[Server]:
    """For those with a credential only; TLS, and certificates of clients if they have one."""
    with Server(
        program,
        *files.tls,
        f"--tls-client-ca={files.ca}",
        "--tls-client-auth=optional",
        f"--tenants={files.tenants}",
    ) as server:
        yield server


@pytest.fixture
def connect(closed: Server, files: Files) -> Callable[[str], ternion.Client]:
    return lambda name: ternion.connect(
        endpoint=closed.endpoint, ca=files.ca, api_key=KEYS[name], retries=0
    )


def test_a_key_opens_the_door(connect: Callable[[str], ternion.Client]) -> None:
    with connect("acme") as client:
        assert client.models()
        assert list(client.generate(text="Once", max_tokens=2))
        with client.session() as session:
            session.start("a", text="Once", max_tokens=2)
            session.half_close()
            *_, (_, last) = session
        assert isinstance(last, ternion.Finished)


async def test_a_key_opens_the_door_to_tasks(closed: Server, files: Files) -> None:
    async with ternion.aio.connect(
        endpoint=closed.endpoint, ca=files.ca, api_key=KEYS["acme"]
    ) as client:
        assert await client.models()
        assert [event async for event in client.generate(text="Once", max_tokens=2)]
        async with client.session() as session:
            await session.start("a", text="Once", max_tokens=2)
            await session.half_close()
            events = [event async for _, event in session]
        assert isinstance(events[-1], ternion.Finished)


@pytest.mark.parametrize("key", [None, f"tn_{secrets.token_urlsafe(32)}", "x"])
def test_no_key_or_a_wrong_one_does_not(closed: Server, files: Files, key: str | None) -> None:
    with ternion.connect(endpoint=closed.endpoint, ca=files.ca, api_key=key) as client:
        calls: list[Callable[[], object]] = [
            client.models,
            lambda: next(client.generate(text="x")),
            lambda: next(client.session()),
        ]
        for call in calls:
            with pytest.raises(ternion.Denied) as denied:
                call()
            assert denied.value.code == "UNAUTHENTICATED"
            assert key is None or key not in str(denied.value) or key == "x"


def test_starting_tells_why_the_session_is_over(closed: Server, files: Files) -> None:
    with ternion.connect(endpoint=closed.endpoint, ca=files.ca) as client:
        session = client.session()

        def refused() -> bool:
            try:
                session.start("a", text="x")
            except ternion.Denied:
                return True
            return False

        assert become_true(refused)


async def test_starting_tells_tasks_as_well(closed: Server, files: Files) -> None:
    async with ternion.aio.connect(endpoint=closed.endpoint, ca=files.ca) as client:
        session = client.session()

        async def start_again_and_again() -> None:
            while True:
                await session.start("a", text="x")

        with pytest.raises(ternion.Denied):
            await start_again_and_again()


def test_a_role_is_needed_to_operate(connect: Callable[[str], ternion.Client]) -> None:
    with connect("acme") as client, pytest.raises(ternion.Denied) as denied:
        client.load()
    assert denied.value.code == "PERMISSION_DENIED"
    with connect("admin") as client:
        assert client.load().kv_pages


def test_a_certificate_is_a_credential(closed: Server, files: Files) -> None:
    with ternion.connect(
        endpoint=closed.endpoint,
        ca=files.ca,
        client_certificate=files.client,
        client_key=files.client_key,
    ) as client:
        assert client.models()


def test_an_authority_that_is_not_trusted(closed: Server, files: Files) -> None:
    for ca in (files.other_ca, None):
        with ternion.connect(
            endpoint=closed.endpoint, ca=ca, api_key=KEYS["acme"], retries=0
        ) as client:
            with pytest.raises(ternion.TransportError):
                client.models()
            with pytest.raises(ternion.TransportError):
                next(client.generate(text="x"))


def test_plain_text_to_a_server_that_speaks_tls(closed: Server) -> None:
    endpoint = closed.endpoint.replace("https", "http")
    with (
        ternion.connect(endpoint=endpoint, api_key=KEYS["acme"], retries=0) as client,
        pytest.raises(ternion.TransportError),
    ):
        client.models()


def test_a_quota_that_takes_a_minute_is_not_waited_for(closed: Server, files: Files) -> None:
    with ternion.connect(endpoint=closed.endpoint, ca=files.ca, api_key=KEYS["once"]) as client:
        assert list(client.generate(text="Once", max_tokens=1))
        with pytest.raises(ternion.ResourceExhausted) as refused:
            next(client.generate(text="Once", max_tokens=1))
        assert refused.value.retry_after is not None
        assert refused.value.retry_after > 10


def test_requests_are_seen_and_ended_from_outside(
    connect: Callable[[str], ternion.Client],
) -> None:
    with connect("acme") as client, connect("other") as other, connect("admin") as admin:
        with cut_short(admin):
            events = client.generate(**LONG, request_id="outside")
            next(events)
            session = client.session()
            session.start("inside", **LONG)
            next(session)
            seen = client.list_requests()
            assert [(each.request_id, each.in_session) for each in seen] == [
                ("outside", False),
                ("inside", True),
            ]
            assert seen[0].age_seconds >= seen[1].age_seconds > 0
            assert other.list_requests() == []
            assert other.cancel_request("outside") == 0
            assert client.cancel_request("outside") == 1
            assert client.cancel_request("inside") == 1
            list(events)
            session.half_close()
            *_, (_, last) = session
        assert events.finished is not None
        assert isinstance(last, ternion.Finished)
        for finished in (events.finished, last):
            assert finished.reason == ternion.FinishReason.FINISH_REASON_CANCELLED
        assert become_true(lambda: client.list_requests() == [])
        assert client.cancel_request("outside") == 0


def test_closing_shows_in_the_list(connect: Callable[[str], ternion.Client]) -> None:
    with connect("acme") as client, connect("admin") as admin, cut_short(admin):
        with client.generate(**LONG) as events:
            next(events)
            assert len(client.list_requests()) == 1
        assert become_true(lambda: client.list_requests() == [])


async def test_requests_are_ended_from_other_tasks(
    closed: Server, files: Files, connect: Callable[[str], ternion.Client]
) -> None:
    with connect("admin") as admin, cut_short(admin):
        async with ternion.aio.connect(
            endpoint=closed.endpoint, ca=files.ca, api_key=KEYS["acme"]
        ) as client:
            events = client.generate(**LONG, request_id="mine")
            await anext(events)
            assert [each.request_id for each in await client.list_requests()] == ["mine"]
            assert await client.cancel_request("mine") == 1
            assert [event async for event in events]
            assert events.finished is not None
            assert events.finished.reason == ternion.FinishReason.FINISH_REASON_CANCELLED
