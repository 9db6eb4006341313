"""One run at a time on an output in an object store: which one holds the lock, and takeovers."""

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
    """The store of an output, with a heartbeat ten times as fast as usual."""
    for name in ("BEAT_S", "EXPIRES_S", "LOOK_S"):
        monkeypatch.setattr(lease, name, getattr(lease, name) / 10)
    return open_store(f"{s3_folder}/out", DEFAULT_ACCESS)


def holder(store: Store) -> dict[str, str]:
    record: dict[str, str] = json.loads(store.read("lock.json"))
    return record


def test_a_second_run_is_refused_while_the_first_is_alive(store: Store) -> None:
    with store.hold("lock.json"):
        with (
            pytest.raises(UsageError, match=f"process {os.getpid()}.*wait until it ends"),
            store.hold("lock.json"),
        ):
            pytest.fail("both hold it")
        assert holder(store)["pid"] == str(os.getpid())
    assert not store.exists("lock.json")


def test_a_lock_without_a_heartbeat_is_held_by_nobody(store: Store) -> None:
    store.write("lock.json", json.dumps({"owner": "x", "host": "far", "pid": "7"}).encode())
    assert store.holder("lock.json") == LockHolder("far", 7, None)
    time.sleep(lease.EXPIRES_S + 1)  # times of the store are whole seconds
    assert store.holder("lock.json") is None


def test_the_holder_of_a_lock_renews_its_heartbeat(store: Store) -> None:
    with store.hold("lock.json"):
        first = holder(store)["beat"]
        threading.Event().wait(3 * lease.BEAT_S)
        assert int(holder(store)["beat"]) > int(first)


@pytest.fixture
def proxies(s3: s3_server.Server) -> Iterator[tuple[Proxy, Proxy]]:
    """A proxy to the store for the first run, and one for the second."""
    pair = Proxy(s3.url), Proxy(s3.url)
    yield pair
    for proxy in pair:
        proxy.close()


def through(proxy: Proxy, store: Store, patience_s: float) -> Store:
    access = Access((("endpoint_url", proxy.url),), patience_s=patience_s)
    return open_store(store.root, access)


@pytest.mark.slow
def test_a_heartbeat_survives_an_outage_of_the_store(
    proxies: tuple[Proxy, Proxy], store: Store
) -> None:
    """The outage is longer than its patience, and than a lock without a beat counts as alive."""
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


@pytest.mark.slow
def test_a_second_run_does_not_take_an_outage_for_a_death(
    proxies: tuple[Proxy, Proxy], store: Store
) -> None:
    """The store is unavailable to both runs for longer than a lock lives without a beat. It returns
    to the second run first, which finds the lock as it was."""
    first, second = proxies

    def restore() -> None:
        time.sleep(2 * lease.EXPIRES_S)
        second.clear()
        while not second.log():
            time.sleep(0.1)
        first.clear_rules()

    with through(first, store, 0.2).hold("lock.json"):
        first.add("lock.json", "503", times=None)
        second.add("GET .*lock.json", "503", skip=2, times=None)
        restoring = threading.Thread(target=restore)
        restoring.start()
        patient = through(second, store, 60.0)
        with pytest.raises(UsageError, match="another run is using"), patient.hold("lock.json"):
            pytest.fail("both hold it")
        restoring.join()


def test_a_lock_of_another_host_is_taken_over_after_a_wait(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.write("lock.json", json.dumps({"owner": "x", "host": "far", "pid": "7"}).encode())
    with caplog.at_level(logging.WARNING, "swath"), store.hold("lock.json"):
        assert holder(store)["owner"] != "x"
    text = " ".join(caplog.messages)
    assert "held by a run on far, process 7; waiting for a sign of life" in text
    assert "is dead; this run takes its place" in text


def test_a_lock_of_a_dead_process_of_this_host_is_taken_over_at_once(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    code = "import sys; from pipeline.storage.lock_holder import process_identity; import os, json;"
    code += "print(json.dumps(process_identity(os.getpid())))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    store.write("lock.json", json.dumps({"owner": "x", **json.loads(done.stdout)}).encode())
    assert store.holder("lock.json") is None
    with caplog.at_level(logging.WARNING, "swath"), store.hold("lock.json"):
        assert holder(store)["owner"] != "x"
    assert not [message for message in caplog.messages if "waiting" in message]


def test_a_lock_that_another_run_has_taken_over_is_not_deleted(store: Store) -> None:
    with store.hold("lock.json"):
        store.write("lock.json", b'{"owner": "another"}')
    assert holder(store) == {"owner": "another"}
