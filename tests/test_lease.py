"""One run at a time on one output in an object store: who holds it, and who takes over."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.errors import UsageError
from pipeline.storage import lease
from pipeline.storage.access import DEFAULT_ACCESS, Access
from pipeline.storage.lock_holder import LockHolder
from pipeline.storage.schemes import open_store
from pipeline.storage.store import Store
from tests.support import s3_server
from tests.support.fault_injection import Proxy

pytestmark = pytest.mark.s3


@pytest.fixture
def store(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Of a heart that beats ten times as fast."""
    for name in ("BEAT_S", "EXPIRES_S", "LOOK_S"):
        monkeypatch.setattr(lease, name, getattr(lease, name) / 10)
    return open_store(f"{s3_folder}/out", DEFAULT_ACCESS)


def holder(store: Store) -> dict[str, str]:
    found: dict[str, str] = json.loads(store.read("lock.json"))
    return found


def test_a_second_run_is_refused_while_the_first_is_alive(store: Store) -> None:
    with store.hold("lock.json"):
        with (
            pytest.raises(UsageError, match=f"process {os.getpid()}.*wait until it ends"),
            store.hold("lock.json"),
        ):
            pytest.fail("both hold it")
        assert holder(store)["pid"] == str(os.getpid())
    assert not store.exists("lock.json")


def test_who_gives_no_sign_of_life_is_not_at_work(store: Store) -> None:
    store.write("lock.json", json.dumps({"owner": "x", "host": "far", "pid": "7"}).encode())
    assert store.holder("lock.json") == LockHolder("far", 7, None)
    time.sleep(lease.EXPIRES_S + 1)  # the store tells the time in whole seconds
    assert store.holder("lock.json") is None


def test_it_beats(store: Store) -> None:
    with store.hold("lock.json"):
        first = holder(store)["beat"]
        threading.Event().wait(3 * lease.BEAT_S)
        assert int(holder(store)["beat"]) > int(first)


@pytest.fixture
def proxies(s3: s3_server.Server) -> Iterator[tuple[Proxy, Proxy]]:
    """To the first run's store, and to the second's."""
    both = Proxy(s3.url), Proxy(s3.url)
    yield both
    for proxy in both:
        proxy.close()


def through(proxy: Proxy, store: Store, patience_s: float) -> Store:
    access = Access((("endpoint_url", proxy.url),), patience_s=patience_s)
    return open_store(store.root, access)


def test_a_heart_outlives_an_outage(proxies: tuple[Proxy, Proxy], store: Store) -> None:
    """Longer than its patience, and than a lock without a beat is taken for alive."""
    proxy = proxies[0]
    with through(proxy, store, 0.2).hold("lock.json"):
        owner = holder(store)["owner"]
        proxy.add("lock.json", "503", times=None)
        time.sleep(2 * lease.EXPIRES_S)
        last = holder(store)
        assert len(proxy.log()) > 3
        proxy.clear_rules()
        deadline = time.monotonic() + 60
        while holder(store)["beat"] == last["beat"]:
            assert time.monotonic() < deadline
            time.sleep(lease.BEAT_S)
        assert holder(store)["owner"] == owner
    assert not store.exists("lock.json")


def test_a_second_run_does_not_take_an_outage_for_a_death(
    proxies: tuple[Proxy, Proxy], store: Store
) -> None:
    """The store is gone for both, for longer than a lock lives without a beat. It is back for the
    second first, which finds the lock as it was."""
    first, second = proxies

    def heal() -> None:
        time.sleep(2 * lease.EXPIRES_S)
        second.clear()
        while not second.log():
            time.sleep(0.1)
        first.clear_rules()

    with through(first, store, 0.2).hold("lock.json"):
        first.add("lock.json", "503", times=None)
        second.add("GET .*lock.json", "503", skip=2, times=None)
        healing = threading.Thread(target=heal)
        healing.start()
        waiting = through(second, store, 60.0)
        with pytest.raises(UsageError, match="another run is using"), waiting.hold("lock.json"):
            pytest.fail("both hold it")
        healing.join()


def test_a_run_that_died_elsewhere_is_waited_for(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.write("lock.json", json.dumps({"owner": "x", "host": "far", "pid": "7"}).encode())
    with caplog.at_level(logging.WARNING, "swath"), store.hold("lock.json"):
        assert holder(store)["owner"] != "x"
    said = " ".join(caplog.messages)
    assert "held by a run on far, process 7; waiting for a sign of life" in said
    assert "is dead; this run takes its place" in said


def test_a_run_that_died_here_is_not_waited_for(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    code = "import sys; from pipeline.storage.lock_holder import process_identity; import os, json;"
    code += "print(json.dumps(process_identity(os.getpid())))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    store.write("lock.json", json.dumps({"owner": "x", **json.loads(done.stdout)}).encode())
    assert store.holder("lock.json") is None
    with caplog.at_level(logging.WARNING, "swath"), store.hold("lock.json"):
        assert holder(store)["owner"] != "x"
    assert not [said for said in caplog.messages if "waiting" in said]


def test_what_another_run_has_taken_over_is_left_to_it(store: Store) -> None:
    with store.hold("lock.json"):
        store.write("lock.json", b'{"owner": "another"}')
    assert holder(store) == {"owner": "another"}
