"""Where a host and port are, and whether anybody listens there. Does not know what is said."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}
KNOCK_S = 5.0
"""Time for an endpoint to accept a connection."""


def host_and_port(address: str) -> tuple[str, int | None]:
    """The host and port of a URL or of `host:port`; host "" if there is none; port None if none is
    given and the scheme has no default, or if it is not a number."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        return parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return "", None


def is_loopback(address: str) -> bool:
    """Whether the host of a URL or of `host:port` is this machine, by its name or number alone."""
    host = host_and_port(address)[0]
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761


def check_listening(address: str) -> None:
    """Connect to the address and hang up; nothing if it has no port. Raises OSError if nobody
    listens."""
    host, port = host_and_port(address)
    if port is not None:
        socket.create_connection((host, port), KNOCK_S).close()
