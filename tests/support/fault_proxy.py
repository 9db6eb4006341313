"""An HTTP proxy in front of a server on this machine, which damages requests by exact rules.

    python -m tests.support.fault_proxy LISTEN UPSTREAM

Both are ports on loopback; with LISTEN 0 a free port is chosen. The first line on stdout is the
port. The proxy is controlled over HTTP at the same port:

    POST   /__faults          {"match": "PUT /bucket/", "kind": "503", ...}: adds a Rule
    POST   /__faults/release  {"forward": true}: held requests are forwarded; false: reset
    GET    /__faults          {"rules": [...], "held": [request lines], "active": requests}
    GET    /__faults/log      {"log": [...]} as well: an Exchange per request
    DELETE /__faults/rules    removes all rules; held requests are forwarded
    DELETE /__faults          the same, and empties the log

Knows of S3 only what its errors look like. A whole message is held in memory, so that a request can
be forwarded even if its sender has died.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
import struct
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.support import http_messages

CONTROL = "/__faults"
KINDS = ("503", "500", "cut", "reset", "delay", "hold")
_CODES = {"503": "SlowDown", "500": "InternalError"}


@dataclass
class Rule:
    """The fault for the requests that match. After a delay or a hold, later rules apply as well."""

    match: str
    """A regular expression searched for in the request line, e.g. `GET /bucket/key HTTP/1.1`."""
    kind: str
    """503 or 500: this is the answer, the server sees nothing. reset: the connection is reset, the
    server sees nothing. cut: the server answers, and the connection ends within the body of the
    answer; an answer without a body is lost. delay: the request is forwarded later. hold: it is
    forwarded when released."""
    times: int | None = 1
    """The number of requests that are struck; None: all."""
    skip: int = 0
    """Matching requests that pass before the first is struck."""
    probability: float = 1.0
    """The probability that a matching request is struck."""
    after_bytes: int = 0
    """Bytes of the answer's body that pass before a cut; at least its last byte is missing."""
    seconds: float = 1.0
    """Length of a delay."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r}: one of {', '.join(KINDS)}")
        re.compile(self.match)

    def takes(self, line: str) -> bool:
        """Whether this request is struck. Counts the request."""
        if self.times == 0 or not re.search(self.match, line):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if random.random() >= self.probability:
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class Exchange:
    """A request and its fate."""

    line: str
    faults: list[str] = field(default_factory=list)
    """The kinds of the rules that struck it."""
    status: int | None = None
    """HTTP status of the server's answer; None if it gave none."""


class Proxy:
    """Forwards requests to a port of this machine, except as its rules say."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._rules: list[Rule] = []
        self._log: list[Exchange] = []
        self._held: dict[asyncio.Future[bool], str] = {}
        self._active = 0
        self._serving: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of a client, with a connection to the server for each request."""
        # asyncio itself would forget a task that waits for the server once the client is gone.
        task = asyncio.current_task()
        self._serving.add(task)
        try:
            while await self._answer(await http_messages.request(reader, writer), writer):
                pass
        except asyncio.IncompleteReadError:
            pass  # the client is gone
        except OSError:  # the server is gone: the client sees a reset, as without a proxy
            _reset(writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._serving.discard(task)

    async def _answer(self, request: http_messages.Message, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; returns whether the connection stays open."""
        method, path, _ = request.line.split(" ", 2)
        if path.startswith(CONTROL):
            _write(writer, *self._control(method, path, request.body))
            await writer.drain()
            return True
        exchange = Exchange(request.line)
        self._log.append(exchange)
        self._active += 1
        try:
            return await self._exchange(request, exchange, writer)
        finally:
            self._active -= 1

    async def _exchange(
        self, request: http_messages.Message, exchange: Exchange, writer: asyncio.StreamWriter
    ) -> bool:
        rule = await self._rule_for(exchange)
        kind = rule.kind if rule else ""
        if kind == "reset":
            _reset(writer)
            return False
        if kind in _CODES:
            answer = _error(kind, bodiless=request.line.startswith("HEAD"))
        else:
            answer = await self._forward(request)
            exchange.status = int(answer.line.split()[1])
        if kind == "cut":
            assert rule is not None
            if len(answer.body) > 1:
                writer.write(
                    answer.head + answer.body[: min(rule.after_bytes, len(answer.body) - 1)]
                )
            return False
        writer.write(answer.head + answer.body)
        await writer.drain()
        return answer.header(b"connection") != b"close" and answer.head.startswith(b"HTTP/1.1")

    async def _rule_for(self, exchange: Exchange) -> Rule | None:
        for rule in self._rules:  # the list may grow while a request is held
            if not rule.takes(exchange.line):
                continue
            exchange.faults.append(rule.kind)
            if rule.kind == "delay":
                await asyncio.sleep(rule.seconds)
            elif rule.kind == "hold":
                if not await self._hold(exchange.line):
                    return Rule("", "reset")
            else:
                return rule
        return None

    async def _hold(self, line: str) -> bool:
        """Hold a request until released; returns whether to forward it."""
        self._held[released := asyncio.get_running_loop().create_future()] = line
        return await released

    def _release(self, forward: bool) -> None:
        for released in self._held:
            released.set_result(forward)
        self._held.clear()

    async def _forward(self, request: http_messages.Message) -> http_messages.Message:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._upstream, limit=http_messages.HEAD_BYTES
        )
        try:
            writer.write(request.head + request.body)
            await writer.drain()
            return await http_messages.response(reader, request.line.startswith("HEAD"))
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the server is gone") from error
        finally:
            writer.close()

    def _control(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        try:
            document = json.loads(body) if body else {}
            match method, path.removeprefix(CONTROL):
                case "GET", "" | "/log":
                    pass
                case "POST", "":
                    self._rules.append(Rule(**document))
                case "POST", "/release":
                    self._release(bool(document["forward"]))
                case "DELETE", "" | "/rules":
                    self._rules.clear()
                    self._log = self._log if path.endswith("/rules") else []
                    self._release(forward=True)
                case _:
                    return 404, {"error": f"{method} {path}: see the head of fault_proxy.py"}
        except (ValueError, TypeError, KeyError, re.error) as error:
            return 400, {"error": str(error)}
        state: dict[str, Any] = {
            "rules": [asdict(rule) for rule in self._rules],
            "held": list(self._held.values()),
            "active": self._active,
        }
        if path.endswith("/log"):
            state["log"] = [asdict(exchange) for exchange in self._log]
        return 200, state


def _error(kind: str, *, bodiless: bool) -> http_messages.Message:
    body = f"<?xml version='1.0'?><Error><Code>{_CODES[kind]}</Code></Error>".encode()
    head = f"HTTP/1.1 {kind} {_CODES[kind]}\r\nContent-Type: application/xml\r\n"
    head += f"Content-Length: {0 if bodiless else len(body)}\r\n\r\n"
    return http_messages.Message(head.encode(), b"" if bodiless else body)


def _write(writer: asyncio.StreamWriter, status: int, document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    writer.write(f"{head}\r\n\r\n".encode() + body)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End the connection by RST, not by the FIN of an orderly end."""
    if not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
    writer.transport.abort()


async def main(listen: int, upstream: int) -> None:
    proxy = Proxy(upstream)
    server = await asyncio.start_server(
        proxy.serve, "127.0.0.1", listen, limit=http_messages.HEAD_BYTES
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
