"""A web server of a folder, with and without range requests, whose answers fail on demand; and a
forward proxy, the only one who knows where a host is."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit

S = TypeVar("S", bound=ThreadingHTTPServer)


class Server(ThreadingHTTPServer):
    """Serves a folder; every `fails_every`-th answer is a 503."""

    def __init__(self, folder: Path, *, ranges: bool = True, fails_every: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ranges, self.fails_every = folder, ranges, fails_every
        self.sends_lengths = True
        self.broken: set[str] = set()
        """Names whose bodies are answered with a 500, and whose heads are served."""
        self.unavailable: set[str] = set()
        """Names whose every request is answered with a 503."""
        self.refused: dict[str, int] = {}
        """The status that answers every request for a name."""
        self.answers_everything = False
        """Whether a page of text is sent for names that do not exist, with a 200."""
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        byte_range = self.headers.get("Range", "")
        self.server.requests.append(f"{self.command} {self.path} {byte_range}")
        path = self.server.folder / self.path.strip("/")
        if self.server.fails_every and len(self.server.requests) % self.server.fails_every == 0:
            self.send_error(503)
            return
        if path.name in self.server.unavailable or (body and path.name in self.server.broken):
            self.send_error(503 if path.name in self.server.unavailable else 500)
            return
        if path.name in self.server.refused:
            self.send_error(self.server.refused[path.name])
            return
        if not path.is_file() and not self.server.answers_everything:
            self.send_error(404)
            return
        data = path.read_bytes() if path.is_file() else b"<html>This is no file.</html>"
        if byte_range and self.server.ranges:
            start, end = (int(number) for number in byte_range.removeprefix("bytes=").split("-"))
            self.send_response(206)
            if self.server.sends_lengths:
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
            data = data[start : end + 1]
        else:
            self.send_response(200)
        if self.server.sends_lengths:
            self.send_header("Content-Length", str(len(data)))
        if not path.is_file():
            self.send_header("Content-Type", "text/html")
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(server: S) -> Iterator[S]:
    thread = threading.Thread(
        target=server.serve_forever, args=(0.02,)
    )  # s between looks at its end
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Proxy(ThreadingHTTPServer):
    """A forward proxy on loopback that fetches http:// URLs of one host, which has no address, from
    a web server; it refuses to open tunnels, which https:// needs."""

    def __init__(self, host: str, server: Server) -> None:
        super().__init__(("127.0.0.1", 0), ProxyHandler)
        self.host, self.server = host, server
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class ProxyHandler(BaseHTTPRequestHandler):
    server: Proxy

    def do_HEAD(self) -> None:
        self._forward()

    def do_GET(self) -> None:
        self._forward()

    def do_CONNECT(self) -> None:
        self.server.requests.append(f"CONNECT {self.path}")
        self.send_error(403)

    def _forward(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        parts = urlsplit(self.path)
        if parts.hostname != self.server.host:
            self.send_error(502)
            return
        headers = {"Range": self.headers["Range"]} if self.headers["Range"] else {}
        url = f"{self.server.server.url}{parts.path}"
        request = urllib.request.Request(url, headers=headers, method=self.command)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request) as answer:
                self.send_response(answer.status)
                for name in ("Content-Length", "Content-Range"):
                    if answer.headers[name]:
                        self.send_header(name, answer.headers[name])
                self.end_headers()
                self.wfile.write(answer.read())
        except HTTPError as error:
            self.send_error(error.code)

    def log_message(self, *_: Any) -> None:
        pass
