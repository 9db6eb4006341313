"""Web inputs behind a proxy, and what never goes by it: everything on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.api import run
from pipeline.errors import TransientError, UsageError
from pipeline.imagery.header import describe
from pipeline.imagery.source import find_inputs
from pipeline.processes.endpoint import is_loopback
from pipeline.settings import Execution, Settings
from pipeline.storage.access import Access
from tests.support import s3_server
from tests.support.archives import write_scene
from tests.support.outputs import differences
from tests.support.web_server import Proxy, Server, serving

SETTINGS = Settings(window=64, stride=48, batch=2)
LOCAL = Execution(runner="local")
HOST = "images.example"  # RFC 6761: it has no address, ever
NOWHERE = "http://127.0.0.1:9"
AT_ONCE = Access(patience_s=0.0)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_scene(tmp_path / "in" / "a.tif", 200, 150, seed=1)
    return tmp_path / "in"


@pytest.fixture
def server(archive: Path) -> Iterator[Server]:
    with serving(Server(archive)) as server:
        yield server


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with serving(Proxy(HOST, server)) as proxy:
        yield proxy


def test_an_input_that_only_the_proxy_reaches_has_the_rows_of_the_file(
    proxy: Proxy,
    archive: Path,
    small_checkpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    web, disk = tmp_path / "web", tmp_path / "disk"
    receipt = run([f"http://{HOST}/a.tif"], small_checkpoint, str(web), SETTINGS, LOCAL)
    assert (receipt.scenes_done, receipt.failures) == (1, ())
    run([str(archive / "a.tif")], small_checkpoint, str(disk), SETTINGS, LOCAL)
    assert differences(disk, web, "masks", "statistics") == []
    assert f"GET http://{HOST}/a.tif" in proxy.requests


def test_https_asks_its_own_proxy_for_a_tunnel(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    with pytest.raises(UsageError, match=r"a\.tif: the proxy refuses to fetch it; .* \(403\)$"):
        find_inputs([f"https://{HOST}/a.tif"], AT_ONCE)
    assert set(proxy.requests) == {f"CONNECT {HOST}:443"}


def test_no_proxy_is_honored(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", f"other.example,{HOST}")
    with pytest.raises(TransientError, match=r"a\.tif: .*ClientConnectorDNSError"):
        find_inputs([f"http://{HOST}/a.tif"], AT_ONCE)
    assert proxy.requests == []


def test_a_proxy_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", NOWHERE)
    with pytest.raises(TransientError, match=r"a\.tif: the proxy does not answer; check https_pr"):
        find_inputs([f"http://{HOST}/a.tif"], AT_ONCE)


@pytest.fixture
def dead_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which nothing that asks its proxies gets an answer."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, NOWHERE)
        monkeypatch.setenv(name.upper(), NOWHERE)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_loopback_is_never_asked_by_the_proxy(
    server: Server, dead_proxies: None, host: str
) -> None:
    del dead_proxies
    (file,) = find_inputs([f"http://{host}:{server.server_port}/a.tif"], AT_ONCE)
    assert describe(file, SETTINGS, 3).width == 200


@pytest.mark.s3
def test_a_store_on_loopback_is_never_asked_by_the_proxy(
    s3: s3_server.Server, s3_folder: str, archive: Path, dead_proxies: None
) -> None:
    del s3, dead_proxies
    fs, _ = AT_ONCE.filesystem(s3_folder)
    fs.clear_instance_cache()  # a connection that another test has made
    s3_server.client(proxies={}).put_file(str(archive / "a.tif"), f"{s3_folder}/a.tif")
    (file,) = find_inputs([s3_folder], AT_ONCE)
    assert describe(file, SETTINGS, 3).width == 200


@pytest.mark.parametrize("status", [401, 403, 407])
def test_a_web_server_s_refusal_does_not_speak_of_our_credentials(
    server: Server, status: int
) -> None:
    server.refused["a.tif"] = status
    with pytest.raises(
        UsageError, match=rf"a\.tif: (its server|the proxy) .* \({status}\)$"
    ) as refused:
        find_inputs([f"{server.url}/a.tif"], AT_ONCE)
    assert "AWS" not in str(refused.value)
    assert "credentials" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://127.0.0.1:8265", True),
        ("127.8.9.10:1", True),
        ("http://[::1]:80/a", True),
        ("https://localhost/a.tif", True),
        ("http://s3.localhost:9000", True),
        ("https://example.org", False),
        ("http://10.0.0.1", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_loopback_is_told_by_name_and_number(address: str, expected: bool) -> None:
    assert is_loopback(address) == expected
