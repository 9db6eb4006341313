"""Fixtures for every test: small checkpoints, damaged files, an S3 server, commands."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest

pytest.register_assert_rewrite("tests.support")

from segformer import mit_config  # noqa: E402
from tests.support import s3_server  # noqa: E402
from tests.support.checkpoints import random_checkpoint, save_checkpoint, save_small  # noqa: E402
from tests.support.commands import Swath, exit_code_of  # noqa: E402
from tests.support.poor_file_system import mounted  # noqa: E402
from tests.support.web_server import Server, serving  # noqa: E402


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Restores the signal handlers: a command called in this process installs its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def swath(capsys: pytest.CaptureFixture[str]) -> Swath:
    """Runs a command in this process."""

    def run_command(*arguments: object) -> tuple[int, str, str]:
        code = exit_code_of(*arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Serves the folder `in` of the test."""
    (tmp_path / "in").mkdir()
    with serving(Server(tmp_path / "in")) as server:
        yield server


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SegFormer of the right shape with few channels, random weights and 4 classes, for tests
    that do not depend on the network."""
    return save_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def b0_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MiT-B0 with 5 classes and random weights."""
    return save_checkpoint(
        random_checkpoint(mit_config("b0", 5), seed=2), tmp_path_factory.mktemp("b0")
    )


@pytest.fixture(scope="session")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of files by what is wrong with them: see `file_contents`."""
    from tests.support.broken_inputs import file_contents  # noqa: PLC0415  Ray, which most tests do not need

    return file_contents(tmp_path_factory.mktemp("contents"))


@pytest.fixture(scope="session")
def s3() -> Iterator[s3_server.Server]:
    """A real S3 server with a bucket "tests"; the AWS_* variables of this process lead to it."""
    with s3_server.running() as server:
        server.make_bucket("tests")
        yield server


@pytest.fixture
def s3_folder(s3: s3_server.Server) -> str:
    """The URL of a folder that only this test uses."""
    assert s3.url
    return f"s3://tests/{uuid.uuid4().hex[:12]}"


@pytest.fixture
def poor_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on a file system without hard links and locks; the hearts of locks beat faster."""
    monkeypatch.setattr("pipeline.storage.lease.BEAT_S", 0.5)
    with mounted(tmp_path / "mirrored", tmp_path / "poor") as succeeded:
        if not succeeded:
            pytest.skip("may not mount")
        yield tmp_path / "poor"
