"""An object in a process of its own, and the ways in which that may end."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator

import pytest

from pipeline.errors import LOG, InputError
from pipeline.processes.companion import Companion, CompanionDiedError
from tests.support.worker_deaths import misbehave


class Held:
    """What the companion holds: it counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def count(self) -> int:
        self.calls += 1
        return self.calls

    def pid(self) -> int:
        return os.getpid()

    def wait(self, seconds: float) -> str:
        time.sleep(seconds)
        return "waited"

    def refuse(self) -> None:
        raise InputError("a.tif is no image", url="a.tif", stage="read")

    def warn(self) -> None:
        LOG.warning("seen %d of %s", 3, "them")

    def misbehave(self, fault: str) -> str:
        return misbehave(fault)


@pytest.fixture
def companion() -> Iterator[Companion]:
    made = Companion(Held())
    yield made
    made.close()


def call(companion: Companion, method: str, *arguments: object, limit_s: float = 60.0) -> object:
    companion.start(method, *arguments, limit_s=limit_s)
    return companion.result()


def test_before_any_call_there_is_no_answer_and_no_hurry(companion: Companion) -> None:
    assert not companion.has_answered
    assert call(companion, "count") == 1
    assert companion.has_answered


def test_the_object_lives_in_another_process_and_keeps_its_state(companion: Companion) -> None:
    assert [call(companion, "count") for _ in range(3)] == [1, 2, 3]
    assert call(companion, "pid") not in (os.getpid(), None)


def test_errors_come_back_as_they_are(companion: Companion) -> None:
    with pytest.raises(InputError, match=r"a\.tif is no image") as raised:
        call(companion, "refuse")
    assert raised.value.stage == "read"
    with pytest.raises(RuntimeError, match="Odd: there"):  # cannot be unpickled
        call(companion, "misbehave", "odd there")
    assert call(companion, "count") == 1


def test_the_outcome_of_a_call_that_nobody_asked_for_is_dropped(companion: Companion) -> None:
    companion.start("refuse", limit_s=60)
    companion.start("count", limit_s=60)
    assert companion.result() == 1


def test_the_caller_does_something_meanwhile(companion: Companion) -> None:
    companion.start("wait", 2.5, limit_s=60)
    times: list[float] = []
    assert companion.result(lambda: times.append(time.monotonic())) == "waited"
    assert 1 <= len(times) <= 30


def test_one_can_look_whether_there_is_an_answer(companion: Companion) -> None:
    companion.start("wait", 0.5, limit_s=60)
    assert not companion.has_answered
    while not companion.has_answered:
        time.sleep(0.01)
    assert companion.result() == "waited"


def test_warnings_are_said_by_this_process(
    companion: Companion, caplog: pytest.LogCaptureFixture
) -> None:
    call(companion, "warn")
    assert ("swath", logging.WARNING, "seen 3 of them") in caplog.record_tuples


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        ("segfault", "its process was killed by SIGSEGV"),
        ("kill", "its process was killed by SIGKILL, as happens when memory runs out"),
        ("exit", "its process ended with exit code 0"),
    ],
)
def test_a_process_that_ends_is_said_to_have_died_for_good(
    companion: Companion, fault: str, how: str
) -> None:
    for _ in range(2):
        with pytest.raises(CompanionDiedError) as raised:
            call(companion, "misbehave", fault)
        assert (raised.value.died.reason, raised.value.died.how) == ("crashed", how)
    assert companion.has_answered


def test_a_call_that_hangs_in_c_ends_its_process(companion: Companion) -> None:
    assert call(companion, "count") == 1
    with pytest.raises(CompanionDiedError, match="it took more than 1 s") as raised:
        call(companion, "misbehave", "hang", limit_s=1.0)
    assert raised.value.died.reason == "timeout"


def test_signs_of_life_extend_the_time_of_a_call(companion: Companion) -> None:
    assert call(companion, "misbehave", "signs 3", limit_s=2.0) == "SIGNS 3"


def test_a_closed_one_answers_nothing_more(companion: Companion) -> None:
    pid = call(companion, "pid")
    companion.close()
    companion.close()
    with pytest.raises(CompanionDiedError):
        call(companion, "count")
    assert not os.path.exists(f"/proc/{pid}")
