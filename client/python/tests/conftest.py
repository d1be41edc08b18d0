from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from server import Server

import ternion


@pytest.fixture(scope="session")
def program() -> str:
    path = os.environ.get("TERNION_SERVER")
    if path is None:
        pytest.skip("TERNION_SERVER names no ternion-server to test against")
    return path


@pytest.fixture(scope="session")
def server(program: str) -> Iterator[Server]:
    """One for all tests that leave it as it was."""
    with Server(program) as server:
        yield server


@pytest.fixture(scope="session")
def fast_server(program: str) -> Iterator[Server]:
    """For requests that are to end by themselves."""
    with Server(program, slow=False) as server:
        yield server


@pytest.fixture
def start(program: str) -> Iterator[Callable[..., Server]]:
    """Servers of a test's own."""
    with ExitStack() as servers:
        yield lambda *arguments, **how: servers.enter_context(Server(program, *arguments, **how))


@pytest.fixture
def client(server: Server) -> Iterator[ternion.Client]:
    with ternion.connect(endpoint=server.endpoint) as client:
        yield client
