"""HTTP/1.1 messages, whole: where they begin and end, and nothing of what they mean."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

HEAD_BYTES = 1 << 20
"""No head is larger."""


@dataclass(frozen=True)
class Message:
    """A request or an answer as it came over the wire."""

    head: bytes
    body: bytes
    """With the framing of its chunks, if it has any."""

    @property
    def line(self) -> str:
        return self.head.partition(b"\r\n")[0].decode("latin1")

    def header(self, name: bytes) -> bytes:
        """In lower case; empty where there is none."""
        return _header(self.head, name)


async def request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Message:
    """The next one. Raises IncompleteReadError where the client has gone."""
    head = await reader.readuntil(b"\r\n\r\n")
    if _header(head, b"expect") == b"100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        head = re.sub(rb"(?im)^expect:.*\r\n", b"", head)  # S3's signatures leave it out
    return Message(head, await _body(reader, head))


async def response(reader: asyncio.StreamReader, bodiless: bool) -> Message:
    """bodiless: of a HEAD. Raises IncompleteReadError where the server has gone."""
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
        bytes_here = int(size.split(b";")[0], 16)
        pieces += [size, await reader.readexactly(bytes_here + 2)]
        if not bytes_here:
            return b"".join(pieces)


def _header(head: bytes, name: bytes) -> bytes:
    found = re.search(rb"(?im)^" + name + rb":[ \t]*(.*?)[ \t]*\r$", head)
    return found[1].lower() if found else b""
