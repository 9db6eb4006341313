"""Whether anybody listens at a host and port. Does not know what is said there."""

from __future__ import annotations

import socket
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


def check_listening(address: str) -> None:
    """Connect to the address and hang up; nothing if it has no port. Raises OSError if nobody
    listens."""
    host, port = host_and_port(address)
    if port is not None:
        socket.create_connection((host, port), KNOCK_S).close()
