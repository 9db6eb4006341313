"""Inputs on web servers, with and without ranges, also through answers that fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from archives import write_scene
from outputs import differences

from pipeline.errors import UsageError
from pipeline.job import run
from pipeline.settings import Execution, Settings

SETTINGS = Settings(window=64, stride=48, batch=2)
LOCAL = Execution(runner="local")


class Server(ThreadingHTTPServer):
    """Serves a folder; every `fails_every`-th answer is a 503."""

    def __init__(self, folder: Path, *, ranges: bool, fails_every: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ranges, self.fails_every = folder, ranges, fails_every
        self.asked: list[str] = []

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
        asked = self.headers.get("Range", "")
        self.server.asked.append(f"{self.command} {self.path} {asked}")
        path = self.server.folder / self.path.strip("/")
        if self.server.fails_every and len(self.server.asked) % self.server.fails_every == 0:
            self.send_error(503)
            return
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        if asked and self.server.ranges:
            start, end = (int(number) for number in asked.removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
            data = data[start : end + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_scene(tmp_path / "in" / "a.tif", 700, 650, seed=1)
    (tmp_path / "in" / "damaged.tif").write_bytes((tmp_path / "in" / "a.tif").read_bytes()[:9000])
    return tmp_path / "in"


@pytest.fixture(params=["ranges", "whole files", "failing"])
def server(request: pytest.FixtureRequest, archive: Path) -> Iterator[Server]:
    fails = 4 if request.param == "failing" else 0
    server = Server(archive, ranges=request.param != "whole files", fails_every=fails)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_rows_are_those_of_the_file_on_disk(
    server: Server, archive: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    names = ["a.tif", "damaged.tif"]
    files, urls = [str(archive / n) for n in names], [f"{server.url}/{n}" for n in names]
    run(files, small_checkpoint, str(tmp_path / "disk"), SETTINGS, LOCAL)
    receipt = run(urls, small_checkpoint, str(tmp_path / "web"), SETTINGS, LOCAL)
    assert differences(tmp_path / "disk", tmp_path / "web", "masks", "statistics") == []
    assert {failure.scene_id for failure in receipt.failures} == {"damaged.tif"}


def test_what_is_not_there_is_said(server: Server, small_checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"b\.tif: no such file"):
        run([f"{server.url}/b.tif"], small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL)
    assert not (tmp_path / "out").exists()
