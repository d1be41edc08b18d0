"""Where a server is and how it is talked to."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import grpc

from ternion._status import invalid
from ternion._version import __version__

File = str | os.PathLike[str]

# Long enough for another continent, short enough to notice a wrong address.
_CONNECT_TIMEOUT_MS = 10_000
_FIRST_RECONNECT_PAUSE_MS = 200
_LONGEST_RECONNECT_PAUSE_MS = 5_000

# Ids of a text of the largest size that a server accepts take more than the
# 4 MiB that are grpc's default.
_MAX_RESPONSE_BYTES = 16 << 20

# Servers close a connection that sends pings oftener than this.
_SHORTEST_KEEPALIVE = 10.0
_KEEPALIVE_TIMEOUT_MS = 20_000


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Checked arguments of ``connect``."""

    target: str
    credentials: grpc.ChannelCredentials | None
    options: tuple[tuple[str, Any], ...]
    metadata: tuple[tuple[str, str], ...] = field(repr=False)
    timeout: float | None
    retries: int


def resolve(
    *,
    endpoint: str,
    api_key: str | None,
    ca: File | None,
    client_certificate: File | None,
    client_key: File | None,
    timeout: float | None,
    keepalive: float,
    round_robin: bool,
    retries: int,
) -> Endpoint:
    """Check the arguments and read the files they name."""
    if keepalive < _SHORTEST_KEEPALIVE:
        raise invalid("keepalive", f"is {keepalive}, must be at least {_SHORTEST_KEEPALIVE}")
    if retries < 0:
        raise invalid("retries", f"is {retries}, must not be negative")
    if (client_certificate is None) != (client_key is None):
        missing = "client_key" if client_key is None else "client_certificate"
        raise invalid(missing, "is missing: a certificate and its key go together")
    address, tls = _address(endpoint, tls_files=ca is not None or client_key is not None)
    return Endpoint(
        target=f"dns:///{address}",
        credentials=grpc.ssl_channel_credentials(
            root_certificates=_read(ca),
            private_key=_read(client_key),
            certificate_chain=_read(client_certificate),
        )
        if tls
        else None,
        options=_options(keepalive, round_robin),
        metadata=_metadata(api_key),
        timeout=timeout,
        retries=retries,
    )


def _address(endpoint: str, *, tls_files: bool) -> tuple[str, bool]:
    """``host:port``, and whether it speaks TLS."""
    if "://" not in endpoint:
        scheme = "https" if tls_files else "http"
        url = _split(f"{scheme}://{endpoint}", endpoint)
        if url.port is None:
            raise invalid("endpoint", f"{endpoint!r} has no port")
    else:
        url = _split(endpoint, endpoint)
    if url.scheme not in ("http", "https"):
        raise invalid("endpoint", f"{endpoint!r} is neither http:// nor https://")
    if not url.hostname or url.path not in ("", "/") or url.query or url.fragment or url.username:
        raise invalid("endpoint", f"{endpoint!r} is no scheme, host and port alone")
    if url.scheme == "http" and tls_files:
        raise invalid("endpoint", f"{endpoint!r} has no TLS, but certificates are given")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    port = url.port or (443 if url.scheme == "https" else 80)
    return f"{host}:{port}", url.scheme == "https"


def _split(url: str, endpoint: str) -> SplitResult:
    try:
        split = urlsplit(url)
        _ = split.port
    except ValueError as error:
        raise invalid("endpoint", f"{endpoint!r}: {error}") from None
    return split


def _options(keepalive: float, round_robin: bool) -> tuple[tuple[str, Any], ...]:
    policy = "round_robin" if round_robin else "pick_first"
    return (
        ("grpc.primary_user_agent", f"ternion-python/{__version__}"),
        ("grpc.service_config", json.dumps({"loadBalancingConfig": [{policy: {}}]})),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.min_reconnect_backoff_ms", _CONNECT_TIMEOUT_MS),
        ("grpc.initial_reconnect_backoff_ms", _FIRST_RECONNECT_PAUSE_MS),
        ("grpc.max_reconnect_backoff_ms", _LONGEST_RECONNECT_PAUSE_MS),
        ("grpc.max_receive_message_length", _MAX_RESPONSE_BYTES),
        ("grpc.keepalive_time_ms", int(keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        # While a long prompt is computed nothing else is sent.
        ("grpc.http2.max_pings_without_data", 0),
        # Two clients of one process may be meant for two tenants.
        ("grpc.use_local_subchannel_pool", 1),
    )


def _metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    if api_key is None:
        return ()
    # Not shown: it is a secret, if a damaged one.
    if not api_key or not api_key.isascii() or not api_key.isprintable():
        raise invalid("api_key", "is empty or holds characters that no header can")
    return (("authorization", f"Bearer {api_key}"),)


def _read(file: File | None) -> bytes | None:
    return None if file is None else Path(file).read_bytes()
