"""Arguments of `connect`; needs no server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ternion
import ternion.aio
from ternion._endpoint import Endpoint, resolve


def resolved(**arguments: Any) -> Endpoint:
    defaults: dict[str, Any] = {
        "api_key": None,
        "ca": None,
        "client_certificate": None,
        "client_key": None,
        "timeout": None,
        "keepalive": 30.0,
        "round_robin": True,
        "retries": 3,
    }
    return resolve(**(defaults | arguments))


@pytest.mark.parametrize(
    ("endpoint", "target", "tls"),
    [
        ("http://127.0.0.1:50051", "dns:///127.0.0.1:50051", False),
        ("http://localhost", "dns:///localhost:80", False),
        ("https://ternion.example", "dns:///ternion.example:443", True),
        ("https://ternion.example:8443/", "dns:///ternion.example:8443", True),
        ("http://[::1]:50051", "dns:///[::1]:50051", False),
        ("localhost:50051", "dns:///localhost:50051", False),
        ("[::1]:50051", "dns:///[::1]:50051", False),
    ],
)
def test_endpoints(endpoint: str, target: str, tls: bool) -> None:
    resolved_endpoint = resolved(endpoint=endpoint)
    assert resolved_endpoint.target == target
    assert (resolved_endpoint.credentials is not None) == tls


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "localhost",
        "http://",
        "ftp://localhost:1",
        "unix:///run/ternion",
        "http://localhost:port",
        "http://localhost:70000",
        "http://localhost:1/path",
        "http://localhost:1?query",
        "http://user@localhost:1",
        "http://[::1:1",
    ],
)
def test_what_is_no_endpoint_is_refused_and_shown(endpoint: str) -> None:
    with pytest.raises(ternion.InvalidArgument) as refused:
        resolved(endpoint=endpoint)
    assert refused.value.fields == ("endpoint",)
    assert repr(endpoint) in str(refused.value)


def test_certificates_mean_tls(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("not looked into before the handshake")
    assert resolved(endpoint="localhost:1", ca=ca).credentials is not None
    with pytest.raises(ternion.InvalidArgument, match="has no TLS"):
        resolved(endpoint="http://localhost:1", ca=str(ca))
    with pytest.raises(FileNotFoundError):
        resolved(endpoint="https://localhost:1", ca=tmp_path / "nothing")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"client_certificate": "a.pem"}, "client_key"),
        ({"client_key": "a.pem"}, "client_certificate"),
        ({"keepalive": 1.0}, "keepalive"),
        ({"retries": -1}, "retries"),
        ({"api_key": ""}, "api_key"),
        ({"api_key": "tn_secret\n"}, "api_key"),
        ({"api_key": "tn_sécret"}, "api_key"),
    ],
)
def test_arguments_that_make_no_sense(arguments: Any, field: str) -> None:
    with pytest.raises(ternion.InvalidArgument) as refused:
        ternion.connect(endpoint="https://localhost:1", **arguments)
    assert refused.value.fields == (field,)
    assert "cret" not in str(refused.value)


def test_a_key_is_not_shown() -> None:
    assert "tn_secret" not in repr(resolved(endpoint="localhost:1", api_key="tn_secret"))


def test_the_asyncio_client_belongs_to_a_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        ternion.aio.connect(endpoint="localhost:1")
