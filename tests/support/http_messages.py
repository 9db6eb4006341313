"""Whole HTTP/1.1 messages: where they start and end, not what they mean."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

HEAD_BYTES = 1 << 20
"""The largest head that is accepted."""


@dataclass(frozen=True)
class Message:
    """A request or an answer as it came over the wire."""

    head: bytes
    body: bytes
    """The body, including the framing of its chunks if it is chunked."""

    @property
    def line(self) -> str:
        return self.head.partition(b"\r\n")[0].decode("latin1")

    def header(self, name: bytes) -> bytes:
        """The value of a header in lower case; empty if it is absent."""
        return _header(self.head, name)


async def request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Message:
    """Read the next request. Raises IncompleteReadError if the client is gone."""
    head = await reader.readuntil(b"\r\n\r\n")
    if _header(head, b"expect") == b"100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        head = re.sub(rb"(?im)^expect:.*\r\n", b"", head)  # not part of S3's signatures
    return Message(head, await _body(reader, head))


async def response(reader: asyncio.StreamReader, bodiless: bool) -> Message:
    """Read the next response, which has no body if it answers a HEAD (`bodiless`).

    Raises IncompleteReadError if the server is gone.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    if bodiless or head.split()[1] in (b"204", b"304"):
        return Message(head, b"")
    if not _header(head, b"content-length") and not _header(head, b"transfer-encoding"):
        return Message(head, await reader.read())
    return Message(head, await _body(reader, head))


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if b"chunked" not in _header(head, b"transfer-encoding"):
        return await reader.readexactly(int(_header(head, b"content-length") or 0))
    pieces = []
    while True:
        size = await reader.readuntil(b"\r\n")
        chunk_bytes = int(size.split(b";")[0], 16)
        pieces += [size, await reader.readexactly(chunk_bytes + 2)]
        if not chunk_bytes:
            return b"".join(pieces)


def _header(head: bytes, name: bytes) -> bytes:
    match = re.search(rb"(?im)^" + name + rb":[ \t]*(.*?)[ \t]*\r$", head)
    return match[1].lower() if match else b""
