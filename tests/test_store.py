"""The contract of a store, on local disk and on a real S3 server."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import TransientError, UnfinishedError, UsageError
from pipeline.storage import create_only
from pipeline.storage.access import DEFAULT_ACCESS, Access
from pipeline.storage.local_store import LocalStore
from pipeline.storage.lock_holder import LockHolder
from pipeline.storage.object_store import ObjectStore
from pipeline.storage.schemes import open_store
from pipeline.storage.store import Store


@pytest.fixture(params=["disk", "poor disk", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return open_store(f"{request.getfixturevalue('s3_folder')}/out", DEFAULT_ACCESS)
    folder = tmp_path if request.param == "disk" else request.getfixturevalue("poor_disk")
    return open_store(str(folder / "out"), DEFAULT_ACCESS)


def test_the_url_decides_the_kind_of_store(store: Store) -> None:
    assert isinstance(store, ObjectStore if store.root.startswith("s3://") else LocalStore)


def test_writing_replaces_a_file(store: Store) -> None:
    assert not store.exists("deep/a.json")
    store.write("deep/a.json", b"first, and longer")
    store.write("deep/a.json", b"second")
    assert store.exists("deep/a.json")
    assert store.read("deep/a.json") == b"second"
    with store.open("deep/a.json") as file:
        file.seek(-3, os.SEEK_END)
        assert file.read() == b"ond"


def test_the_last_bytes_and_many_files_are_read(store: Store) -> None:
    for n in range(40):
        store.write(f"many/{n}", bytes(n))
    assert [len(store.tail(f"many/{n}", 9)) for n in (0, 8, 9, 10)] == [0, 8, 9, 9]
    assert list(store.read_all(f"many/{n}" for n in range(40))) == [bytes(n) for n in range(40)]
    assert list(store.read_all([])) == []
    with pytest.raises(FileNotFoundError):
        store.tail("many/40", 9)
    with pytest.raises(FileNotFoundError):
        list(store.read_all(["many/0", "many/40"]))


def test_reading_a_missing_file_raises_file_not_found(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.read("none.json")
    with pytest.raises(FileNotFoundError):
        store.open("none.json").read()
    assert store.list("none") == []


def test_a_file_appears_when_the_block_that_writes_it_ends(store: Store) -> None:
    store.write("a.parquet", b"old")
    with store.writing("a.parquet") as file:
        file.write(b"new " * 100_000)
        file.seek(0)
        file.write(b"NEW ")  # a writer of Parquet may seek back
        assert store.read("a.parquet") == b"old"
    assert store.read("a.parquet") == b"NEW " + b"new " * 99_999
    assert store.list("") == ["a.parquet"]


@pytest.mark.s3
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_full_disk_before_an_upload_is_named(
    s3_folder: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full disk is on this machine, not in the store."""
    store = open_store(f"{s3_folder}/out", DEFAULT_ACCESS)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda: open("/dev/full", "r+b"))  # noqa: SIM115
    message = f"^{tempfile.gettempdir()} on .*: no space left to hold a/b until it is uploaded"
    with pytest.raises(UnfinishedError, match=message), store.writing("a/b") as file:
        file.write(bytes(size))
    assert store.list("a") == []


@pytest.mark.s3
def test_times_of_a_listing_are_parsed_without_dateutil(
    s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"{s3_folder}/out", DEFAULT_ACCESS)
    store.write("a", b"a")
    fs, path = store.fsspec()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("dateutil.parser.parse", refuse)
    (info,) = fs.ls(path, detail=True)
    assert abs(info["LastModified"] - datetime.now(UTC)) < timedelta(minutes=5)


def test_nothing_is_written_if_the_block_raises(store: Store) -> None:
    store.write("old.parquet", b"old")
    for name in ("old.parquet", "new.parquet"):
        with pytest.raises(ZeroDivisionError), store.writing(name) as file:  # noqa: PT012
            file.write(b"half")
            file.flush()
            raise ZeroDivisionError
    assert store.list("") == ["old.parquet"]
    assert store.read("old.parquet") == b"old"


def test_creating_a_file_has_one_winner(store: Store) -> None:
    """Sixteen writers create the same files; each is told correctly whether it has won."""
    start = threading.Barrier(16)

    def race(writer: int) -> list[bool]:
        outcomes = []
        for n in range(4):
            start.wait(60)
            outcomes.append(store.create(f"plan/{n}.json", b"%02d" % writer))
        return outcomes

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(race, range(16)))
    for n in range(4):
        winners = [writer for writer, won in enumerate(outcomes) if won[n]]
        assert len(winners) == 1
        assert store.read(f"plan/{n}.json") == b"%02d" % winners[0]
    assert store.list("plan") == [f"{n}.json" for n in range(4)]


def test_list_gives_sorted_names_of_one_folder(store: Store) -> None:
    for path in ("b", "plan/2.json", "plan/1.json", "plan/deep/3.json", "planned/4.json", "a"):
        store.write(path, b"{}")
    assert store.list("") == ["a", "b", "plan", "planned"]
    assert store.list("plan") == ["1.json", "2.json", "deep"]


def test_delete_folder_leaves_its_neighbours(store: Store) -> None:
    for path in ("work/0/a", "work/0/b", "work/00/c", "work/1/d"):
        store.write(path, b"rows")
    store.delete_folder("work/0")
    store.delete_folder("work/0")
    assert store.list("work/0") == []
    assert store.list("work") == ["00", "1"]
    assert store.read("work/00/c") == b"rows"


def test_sweep_deletes_what_killed_writers_left_on_disk(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"), DEFAULT_ACCESS)
    store.write("work/0/a.parquet", b"rows")
    (tmp_path / "out" / "work" / "0" / ".a.parquet.12-ab.tmp").write_bytes(b"half")
    (tmp_path / "other").mkdir()
    neighbour = tmp_path / "other" / ".a.parquet.12-ab.tmp"
    neighbour.write_bytes(b"half")
    store.sweep("work/0/b.parquet")
    store.sweep("work/1/a.parquet")
    assert len(os.listdir(tmp_path / "out" / "work" / "0")) == 2
    store.sweep("work/0/a.parquet")
    assert os.listdir(tmp_path / "out" / "work" / "0") == ["a.parquet"]
    (tmp_path / "out" / ".b.12-ab.tmp").write_bytes(b"half")
    store.sweep()
    assert not (tmp_path / "out" / ".b.12-ab.tmp").exists()
    assert neighbour.exists()


@pytest.mark.s3
def test_sweep_aborts_the_uploads_of_its_folder_only(s3_folder: str) -> None:
    store = open_store(f"{s3_folder}/out", DEFAULT_ACCESS)
    fs, root = store.fsspec()
    bucket, _, folder = root.partition("/")
    keys = [f"{folder}/masks/0.parquet", f"{folder}/1", f"{folder}2/0", f"{folder[:-1]}/0"]
    for key in keys:
        upload = fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
        part = {"Bucket": bucket, "Key": key, "UploadId": upload["UploadId"]}
        fs.call_s3("upload_part", **part, PartNumber=1, Body=b"half")
    store.write("masks/0.parquet", b"rows")
    store.sweep("masks/0.parquet")
    assert uploads(fs, bucket, folder[:-1]) == sorted(keys[1:])
    store.sweep()
    assert uploads(fs, bucket, folder[:-1]) == sorted(keys[2:])
    assert store.list("masks") == ["0.parquet"]


@pytest.mark.s3
def test_a_folder_made_in_a_console_is_empty(s3_folder: str) -> None:
    """A console creates a folder as an empty object whose name ends in a slash."""
    store = open_store(f"{s3_folder}/out", DEFAULT_ACCESS)
    fs, root = store.fsspec()
    bucket, _, folder = root.partition("/")
    fs.call_s3("put_object", Bucket=bucket, Key=f"{folder}/", Body=b"")
    fs.call_s3("put_object", Bucket=bucket, Key=f"{folder}/plan/", Body=b"")
    assert store.list("") == ["plan"]
    assert store.list("plan") == []
    store.write("plan/0.json", b"{}")
    assert store.list("plan") == ["0.json"]
    assert store.list("") == ["plan"]


@pytest.mark.s3
def test_a_large_file_goes_up_in_parts_and_leaves_no_upload(s3_folder: str) -> None:
    store = open_store(s3_folder, DEFAULT_ACCESS)
    fs, root = store.fsspec()
    bucket, _, folder = root.partition("/")
    block = os.urandom(1 << 20)
    with store.writing("large") as file:
        for _ in range(101):
            file.write(block)
    assert "-" in fs.info(f"{root}/large")["ETag"]  # S3's sign of several parts
    assert fs.info(f"{root}/large")["size"] == 101 << 20
    with store.open("large") as stored:
        stored.seek(-(1 << 20), os.SEEK_END)
        assert stored.read() == block
    assert uploads(fs, bucket, folder) == []
    store.delete_folder("")


@pytest.mark.s3
def test_a_failed_part_publishes_nothing(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second part never arrives: the object must not appear with the first alone."""
    store = open_store(s3_folder, Access(patience_s=1))
    fs, root = store.fsspec()
    bucket, _, folder = root.partition("/")
    call = fs._call_s3

    async def failing(method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "upload_part" and kwargs["PartNumber"] == 2:
            raise OSError(5, "the connection is gone")
        return await call(method, *args, **kwargs)

    monkeypatch.setattr(fs, "_call_s3", failing)
    with pytest.raises(TransientError, match="gone"), store.writing("large") as file:
        file.truncate(101 << 20)
    monkeypatch.undo()
    assert store.list("") == []
    assert uploads(fs, bucket, folder) == []


def test_the_holder_of_a_lock_is_named(store: Store) -> None:
    assert store.holder("lock.json") is None
    with store.hold("lock.json"):
        before = store.read("lock.json")
        holder = store.holder("lock.json")
        assert holder is not None
        assert (holder.host, holder.pid) == (socket.gethostname(), os.getpid())
        since = datetime.fromisoformat(holder.since or "")
        assert timedelta() <= datetime.now(UTC) - since < timedelta(minutes=1)
        assert store.list("") == ["lock.json"]
        assert store.read("lock.json") == before
        message = rf"using this output \({holder.host}, process {os.getpid()}, since {since.year}-"
        if isinstance(store, LocalStore):  # test_lease.py has that of object stores
            with pytest.raises(UsageError, match=message), store.hold("lock.json"):
                pytest.fail("both hold it")
    assert store.holder("lock.json") is None


def test_an_empty_lock_file_counts_only_while_it_is_locked(tmp_path: Path) -> None:
    """Earlier versions left such files, locked or not."""
    store = open_store(str(tmp_path), DEFAULT_ACCESS)
    (tmp_path / "lock.json").touch()
    assert store.holder("lock.json") is None
    with (tmp_path / "lock.json").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert store.holder("lock.json") == LockHolder(None, None, None)
        with pytest.raises(UsageError, match="unknown machine"), store.hold("lock.json"):
            pytest.fail("both hold it")
    with store.hold("lock.json"):
        assert store.holder("lock.json") != LockHolder(None, None, None)
    assert store.list("") == []


def test_asking_for_the_holder_prevents_no_lock(tmp_path: Path) -> None:
    store, done = open_store(str(tmp_path), DEFAULT_ACCESS), threading.Event()
    (tmp_path / "lock.json").touch()  # left by a dead run: whoever asks for its holder may lock it

    def ask() -> None:
        while not done.is_set():
            store.holder("lock.json")

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(ask)
        try:
            for _ in range(50):
                with store.hold("lock.json"):
                    pass
                (tmp_path / "lock.json").touch()
        finally:
            done.set()


def test_a_poor_disk_has_neither_links_nor_locks(poor_disk: Path) -> None:
    """As the tests that use it believe."""
    (poor_disk / "a").touch()
    with pytest.raises(PermissionError):
        os.link(poor_disk / "a", poor_disk / "b")
    with (poor_disk / "a").open() as file, pytest.raises(OSError, match="not implemented"):
        fcntl.flock(file, fcntl.LOCK_EX)


def test_the_claim_of_a_dead_writer_is_removed(
    poor_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed between its look and its rename."""
    monkeypatch.setattr(create_only, "_CLAIM_S", 0.5)
    store = open_store(str(poor_disk), DEFAULT_ACCESS)
    store.write("plan.json", b"")
    (poor_disk / ".job.json.claim.tmp").touch()
    started = time.monotonic()
    assert store.create("job.json", b"1")
    assert time.monotonic() - started > 0.5
    assert not store.create("job.json", b"2")
    assert store.read("job.json") == b"1"
    assert os.listdir(poor_disk) == ["job.json", "plan.json"]


HOLD = """
import sys
from pipeline.storage.access import DEFAULT_ACCESS
from pipeline.storage.schemes import open_store
with open_store(sys.argv[1], DEFAULT_ACCESS).hold("lock.json"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_of_a_killed_run_on_a_poor_disk_is_taken_at_once(poor_disk: Path) -> None:
    store = open_store(str(poor_disk), DEFAULT_ACCESS)
    command = [sys.executable, "-c", HOLD, str(poor_disk)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        holder = store.holder("lock.json")
        assert holder is not None
        assert holder.pid == other.pid
        other.kill()
    started = time.monotonic()
    with store.hold("lock.json"):
        assert time.monotonic() - started < 10
    assert store.list("") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_read_only_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path / "disk")]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("may not mount")
    try:
        for folder in (tmp_path / "disk", tmp_path / "disk" / "new" / "out"):
            store = open_store(str(folder), DEFAULT_ACCESS)
            with pytest.raises(UsageError, match=f"{folder}: cannot .* to {tmp_path}/disk, or"):
                store.check_writable()
            with pytest.raises(UsageError, match=r"Read-only file system\); name"):
                store.hold("lock.json").__enter__()
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path / "disk")], check=True)


def test_a_web_server_cannot_be_an_output() -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        open_store("http://127.0.0.1/out", DEFAULT_ACCESS)


def uploads(fs: Any, bucket: str, prefix: str) -> list[str]:
    """Keys of the multipart uploads that are under way."""
    page = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix)
    return sorted(upload["Key"] for upload in page.get("Uploads", ()))
