"""A Hugging Face Hub on loopback that speaks the few calls of a download, over real HTTP.

    GET /api/models/ORG/NAME[/revision/REVISION]     the commit, and the names of its files
    HEAD, GET /ORG/NAME/resolve/REVISION/FILE        a file; of weights a redirect to
    GET /storage/HASH                                another origin, as the Hub's storage is

Its errors have the Hub's own codes, in headers. It fails on demand.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.support.web_server import serving

GOOD_TOKEN = "hf_GoodTokenOfATest"
"""The token of somebody who has accepted the terms of gated models."""
WEIGHTS = (".safetensors", ".bin", ".pth")


@dataclass
class Model:
    """A model: its commits, and what its branches and tags stand for."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    is_gated: bool = False

    def commit(self, revision: str) -> str | None:
        commit = self.revisions.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass
class Trouble:
    """What is done to the next requests whose path contains some text."""

    part: str
    status: int = 0
    """The answer; 0: the body is cut in the middle."""
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    method: str = ""
    """Requests of this method only."""


class HubServer(ThreadingHTTPServer):
    """The models by name, and what was asked of them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models: dict[str, Model] = {}
        self.troubles: list[Trouble] = []
        self.delay_s = 0.0
        """Seconds before the storage answers."""
        self.requests: list[str] = []
        """As `GET /org/name/resolve/main/config.json`."""
        self.tokens: dict[str, str | None] = {}
        """The Authorization header of the last request for a path."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def storage_url(self) -> str:
        return f"http://localhost:{self.server_port}"

    def publish(self, name: str, folder: str | Path, revision: str = "main", **more: bytes) -> str:
        """Make a commit of a folder's files, and let a branch or a tag stand for it; returns it."""
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        files |= {f"{key}.md": data for key, data in more.items()}
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        model = self.models.setdefault(name, Model())
        model.commits[commit] = files
        model.revisions[revision] = commit
        return commit

    def trouble(self, part: str, status: int = 0, times: int = 1, **headers: str) -> None:
        """Let the next requests for paths with this part fail. headers: with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.troubles.append(Trouble(part, status, named, times))

    def asked(self, part: str) -> list[str]:
        """The requests whose path contains this part."""
        return [request for request in self.requests if part in request]

    def take_trouble(self, path: str, *, has_body: bool) -> Trouble | None:
        for trouble in self.troubles:
            if trouble.times and trouble.part in path and (trouble.status or has_body):
                trouble.times -= 1
                return trouble
        return None


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def _answer(self, *, has_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        self.server.tokens[path] = self.headers["Authorization"]
        trouble = self.server.take_trouble(path, has_body=has_body)
        if trouble and trouble.status:
            self._refuse(trouble.status, "", **trouble.headers)
            return
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._info("/".join(parts[2:4]), "/".join(parts[5:]) or "main")
        elif parts[0] == "storage":
            self._storage(parts[1], cut=trouble is not None)
        elif parts[2:3] == ["resolve"]:
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), has_body=has_body)
        else:
            self._refuse(404, "")

    def _info(self, name: str, revision: str) -> None:
        model = self.server.models.get(name)
        if model is None:
            self._refuse(401, "RepoNotFound")
        elif (commit := model.commit(revision)) is None:
            self._refuse(404, "RevisionNotFound")
        else:
            siblings = [{"rfilename": file} for file in sorted(model.commits[commit])]
            answer = {"id": name, "sha": commit, "siblings": siblings, "gated": model.is_gated}
            self._send(json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, file: str, *, has_body: bool) -> None:
        model = self.server.models.get(name)
        if model is None:
            self._refuse(401, "RepoNotFound")
            return
        token = self.headers["Authorization"]
        if model.is_gated and token != f"Bearer {GOOD_TOKEN}":
            self._refuse(403 if token else 401, "GatedRepo")
            return
        commit = model.commit(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
            return
        data = model.commits[commit].get(file)
        if data is None:
            self._refuse(404, "EntryNotFound", **{"X-Repo-Commit": commit})
            return
        digest = hashlib.sha256(data).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest[:40]}"'}
        if not file.endswith(WEIGHTS):
            self._send(data, headers, has_body=has_body)
            return
        headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        headers["Location"] = f"{self.server.storage_url}/storage/{digest}?signature=secret"
        self._send(b"", headers, status=302)

    def _storage(self, digest: str, *, cut: bool) -> None:
        if self.headers["Authorization"]:  # as a signed URL does
            self._refuse(400, "")
            return
        blobs = (
            b for m in self.server.models.values() for c in m.commits.values() for b in c.values()
        )
        data = next(blob for blob in blobs if hashlib.sha256(blob).hexdigest() == digest)
        time.sleep(self.server.delay_s)
        byte_range = self.headers["Range"]
        start = int(byte_range.removeprefix("bytes=").partition("-")[0]) if byte_range else 0
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        self._send(data[start:], headers, status=206 if start else 200, cut=cut)

    def _send(
        self,
        data: bytes,
        headers: dict[str, str],
        *,
        status: int = 200,
        has_body: bool = True,
        cut: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(data[: len(data) // 2] if cut else data)

    def _refuse(self, status: int, code: str, **headers: str) -> None:
        coded = {"X-Error-Code": code} if code else {}
        self._send(b"", coded | headers, status=status, has_body=False)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def hub_on_loopback(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub that this process and those that it starts ask, with an empty cache in `home`."""
    with serving(HubServer()) as server:
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(home))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        # What huggingface_hub made of these variables when it was imported.
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        huggingface_hub.close_session()
        yield server
        huggingface_hub.close_session()
