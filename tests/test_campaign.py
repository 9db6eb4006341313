"""The fault proxy follows its rules, and a few of the 208 cases of bench/promises/campaign.py."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.promises.campaign import Site, carry_out, leave_an_upload, open_site, problems_of
from tests.support import s3_server
from tests.support.campaign_records import Results, summary, table
from tests.support.fault_cases import FAULTS, PHASES, Case, cases
from tests.support.fault_injection import Proxy
from tests.support.outputs import files

pytestmark = pytest.mark.s3

BODY = b"0123456789" * 1000


@pytest.fixture(scope="module")
def bucket(s3: s3_server.Server) -> str:
    """A bucket that anybody may read and write, with an object "there"."""
    s3.make_bucket("anybody")
    s3.set_policy("anybody", s3_server.policy("anybody", "*", "s3:*"))
    s3_server.client().pipe_file("anybody/there", BODY)
    return "anybody"


@pytest.fixture(scope="module")
def proxy_process(s3: s3_server.Server) -> Iterator[Proxy]:
    proxy = Proxy(s3.url)
    yield proxy
    proxy.close()


@pytest.fixture
def proxy(proxy_process: Proxy) -> Iterator[Proxy]:
    yield proxy_process
    proxy_process.clear()


def ask(proxy: Proxy, name: str, method: str = "GET", body: bytes | None = None) -> bytes:
    headers = {"Content-Type": "image/tiff"}  # else moto takes the body for a form
    request = urllib.request.Request(f"{proxy.url}/anybody/{name}", body, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())


def statuses(proxy: Proxy) -> list[tuple[list[str], int | None]]:
    return [(exchange["faults"], exchange["status"]) for exchange in proxy.log()]


def test_requests_that_no_rule_matches_pass_the_proxy(proxy: Proxy, bucket: str) -> None:
    proxy.add(f"^GET /{bucket}/other", "503")
    assert ask(proxy, "there") == BODY
    assert ask(proxy, "there", "HEAD") == b""
    ask(proxy, "new", "PUT", b"new")
    assert ask(proxy, "new") == b"new"
    assert statuses(proxy) == [([], 200)] * 4
    assert proxy.log()[0]["line"] == f"GET /{bucket}/there HTTP/1.1"


@pytest.mark.parametrize("kind", ["503", "500"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_errors_are_answered_without_the_server(
    proxy: Proxy, bucket: str, kind: str, method: str
) -> None:
    proxy.add(f"/{bucket}/", kind)
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(proxy, "there", method, b"other" if method == "PUT" else None)
    assert error.value.code == int(kind)
    assert (b"<Code>" in error.value.read()) == (method != "HEAD")
    error.value.close()
    assert statuses(proxy) == [([kind], None)]
    assert ask(proxy, "there") == BODY  # the rule struck once


def test_a_reset_request_never_arrives(proxy: Proxy, bucket: str) -> None:
    proxy.add("^PUT", "reset")
    with pytest.raises(OSError, match="reset"):
        ask(proxy, "lost", "PUT", b"lost")
    assert statuses(proxy) == [(["reset"], None)]
    assert not s3_server.client().exists(f"{bucket}/lost")


@pytest.mark.parametrize(("after", "arrives"), [(0, 0), (100, 100), (1 << 20, len(BODY) - 1)])
def test_a_cut_answer_ends_after_the_bytes_of_its_rule(
    proxy: Proxy, bucket: str, after: int, arrives: int
) -> None:
    proxy.add(f"/{bucket}/", "cut", after_bytes=after)
    with pytest.raises(http.client.IncompleteRead) as error:
        ask(proxy, "there")
    assert error.value.partial == BODY[:arrives]
    assert statuses(proxy) == [(["cut"], 200)]


def test_a_cut_answer_without_a_body_is_lost(proxy: Proxy, bucket: str) -> None:
    proxy.add("^PUT", "cut", after_bytes=100)
    with pytest.raises(http.client.RemoteDisconnected):
        ask(proxy, "unknown", "PUT", b"done")
    assert s3_server.client().cat_file(f"{bucket}/unknown") == b"done"


def test_the_rules_after_a_delay_apply_as_well(proxy: Proxy, bucket: str) -> None:
    assert bucket
    proxy.add(".", "delay", seconds=0.3)
    proxy.add(".", "503")
    start = time.monotonic()
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(proxy, "there")
    error.value.close()
    assert time.monotonic() - start >= 0.3
    assert statuses(proxy) == [(["delay", "503"], None)]


def test_skip_times_and_probability_decide_which_requests_are_struck(
    proxy: Proxy, bucket: str
) -> None:
    assert bucket
    proxy.add("^GET", "503", skip=1, times=2)
    proxy.add("^GET", "500", times=None, probability=0.0)
    for _ in range(4):
        try:
            ask(proxy, "there")
        except urllib.error.HTTPError as error:
            error.close()
    assert [faults for faults, _ in statuses(proxy)] == [[], ["503"], ["503"], []]
    proxy.clear_rules()
    proxy.add("^GET", "500", times=None)
    for _ in range(2):
        with pytest.raises(urllib.error.HTTPError) as raised:
            ask(proxy, "there")
        raised.value.close()


@pytest.mark.parametrize("forward", [True, False])
def test_a_held_request_is_forwarded_or_reset_when_released(
    proxy: Proxy, bucket: str, forward: bool
) -> None:
    name = f"held-{forward}"
    proxy.add(f"/{name} ", "hold")
    failures: list[OSError] = []

    def put() -> None:
        try:
            ask(proxy, name, "PUT", b"at last")
        except OSError as error:
            failures.append(error)

    sender = threading.Thread(target=put)
    sender.start()
    wait_for(lambda: proxy.state()["held"])
    assert proxy.state()["held"] == [f"PUT /{bucket}/{name} HTTP/1.1"]
    assert ask(proxy, "there") == BODY  # other requests pass
    assert not s3_server.client().exists(f"{bucket}/{name}")
    proxy.release(forward=forward)
    sender.join()
    assert s3_server.client().exists(f"{bucket}/{name}") == forward
    assert bool(failures) != forward


def test_a_held_request_outlives_its_sender(proxy: Proxy, bucket: str) -> None:
    proxy.add("^PUT", "hold")
    connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"))
    connection.request("PUT", f"/{bucket}/orphan", b"whole")
    wait_for(lambda: proxy.state()["held"])
    connection.close()
    proxy.release()
    wait_for(lambda: not proxy.state()["active"])
    assert s3_server.client().cat_file(f"{bucket}/orphan") == b"whole"


def wait_for(condition: Callable[[], object]) -> None:
    while not condition():  # pytest's timeout ends it
        time.sleep(0.01)


def test_a_rule_of_an_unknown_kind_or_with_a_bad_pattern_is_refused(proxy: Proxy) -> None:
    for match, kind in ((".", "404"), ("(", "503")):
        with pytest.raises(urllib.error.HTTPError) as error:
            proxy.add(match, kind)
        assert error.value.code == 400
        error.value.close()


ONLY_IN = {
    "replica": ("mid-unit",),
    "reader": ("mid-unit",),
    "publisher": ("mid-publish", "before commit", "clean-up"),
}
"""The phases in which a process that may be killed is at work; all phases for other faults."""


def test_the_cases_are_the_same_every_time_and_cover_each_fault_and_phase() -> None:
    campaign = cases()
    assert campaign == cases()
    assert len(campaign) >= 200
    assert [case.number for case in campaign] == list(range(1, len(campaign) + 1))
    runners = Counter(case.runner for case in campaign)
    assert 0.4 < runners["local"] / len(campaign) < 0.6
    counts = Counter((case.fault, case.phase) for case in campaign)
    for fault in FAULTS:
        for phase in ONLY_IN.get(fault, PHASES):
            assert counts[fault, phase] >= 2


def test_results_resume_where_they_stopped(tmp_path: Path) -> None:
    one, other = cases()[:2]
    path = tmp_path / "results.jsonl"
    record = {**asdict(one), "problems": [], "outcome": "resumed", "commit": "abc"}
    Results(path).add(record)
    Results(path).add({**record, **asdict(other), "problems": ["stray: a"]})
    again = Results(path)
    assert list(again.records) == [1, 2]
    again.check([one, other])
    with pytest.raises(SystemExit, match="its case 1 is another one"):
        again.check([Case(1, one.runner, one.fault, one.phase, skip=one.skip + 1)])
    report = summary(list(again.records.values()))
    assert (report["resumed"], report["failed"], report["failed_cases"]) == (1, 1, [2])
    assert "1 failed" in table(report)
    assert json.loads(json.dumps(report)) == report


@pytest.fixture(scope="module")
def campaign_site(s3: s3_server.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(s3, tmp_path_factory.mktemp("campaign")) as open_campaign:
        yield open_campaign


@pytest.mark.slow
def test_everything_wrong_with_an_output_is_named(campaign_site: Site) -> None:
    assert campaign_site.checkpoint
    fs, out = s3_server.client(), "s3://campaign/wrong"
    for name in files("s3://campaign/calm"):
        fs.pipe_file(f"{out}/{name}", fs.cat_file(f"s3://campaign/calm/{name}"))
    assert problems_of({"exit_codes": [0]}, out) == []

    fs.pipe_file(f"{out}/work/000000/left.parquet", b"")
    leave_an_upload(out)
    statistics = pq.read_table(io.BytesIO(fs.cat_file(f"{out}/statistics/000000.parquet")))
    changed = io.BytesIO()
    pq.write_table(statistics.slice(1), changed)
    fs.pipe_file(f"{out}/statistics/000000.parquet", changed.getvalue())
    rows = statistics.num_rows
    assert problems_of({"exit_codes": [1, 0], "units_done_before": 5}, out) == [
        "5 units computed though they were done",
        f"differs: statistics: {rows} rows and {rows - 1}",
        "stray: work/000000/left.parquet",
        "multipart upload: wrong/masks/000000.parquet",
    ]
    assert problems_of({"exit_codes": [3, 1]}, out) == [
        "a transient failure was taken for a verdict: exit code 3",
        "the same command again: exit code 1",
    ]


CASES = [
    Case(901, "local", "driver", "before commit", forward=True),
    Case(902, "local", "reset", "mid-unit", skip=2),
    pytest.param(Case(903, "ray", "publisher", "clean-up"), marks=pytest.mark.ray),
]
"""A few cases: test_resume.py shows that a run may end at any other point, on S3 too."""


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.fault} {case.phase}")
def test_a_disturbed_run_survives_or_is_resumed_by_the_same_command(
    campaign_site: Site, case: Case
) -> None:
    record = carry_out(case, campaign_site)
    assert record["problems"] == []
    if case.fault == "driver":
        assert record["exit_codes"] == [-9, 0]
        assert record["units_done_before"] == record["units"] > 4
    elif case.fault == "publisher":
        assert record["outcome"] == "survived"
    else:
        assert record["requests_struck"] > 1
