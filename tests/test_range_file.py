"""A RangeFile returns what a plain file returns, for any reads and wherever blocks end."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from pipeline.imagery.header import describe
from pipeline.imagery.input_file import InputFile
from pipeline.imagery.pixels import read_pixels
from pipeline.scene import Rect
from pipeline.settings import Settings
from pipeline.storage import range_file
from pipeline.storage.range_file import RangeFile
from tests.support.archives import write_scene

BLOCK = 16
CONTENTS = np.random.default_rng(0).integers(0, 256, 40 * BLOCK, np.uint8).tobytes()
Step = tuple[str, int | None, int]
sizes = st.one_of(
    st.integers(0, len(CONTENTS)),
    st.builds(lambda n, d: n * BLOCK + d, st.integers(1, 39), st.integers(-1, 1)),
)
lengths = st.one_of(
    st.none(),
    st.integers(-1, 6 * BLOCK),
    st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1, 20 * BLOCK]),
)
steps = st.one_of(
    st.tuples(
        st.just("seek"),
        st.integers(-len(CONTENTS) - 5, len(CONTENTS) + 5),
        st.sampled_from([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END]),
    ),
    st.tuples(st.just("read"), lengths, st.just(0)),
)


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """Shrink the blocks and the cache, so that blocks are evicted and fetched again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(range_file, "BLOCK_BYTES", BLOCK)
        patch.setattr(range_file, "CACHED_BLOCKS", 5)
        patch.setattr(range_file, "MAX_READ_AHEAD", 3)
        yield


def check_steps(plan: list[Step], file: RangeFile, plain: io.BytesIO) -> None:
    """Assert that every step has the same result and position with both files."""
    size = len(plain.getvalue())
    for name, number, whence in plan:
        if name == "read":
            assert file.read(number) == plain.read(number)
        elif target(number or 0, whence, plain.tell(), size) < 0:
            with pytest.raises(ValueError, match="before the start"):
                file.seek(number or 0, whence)
        else:
            assert file.seek(number or 0, whence) == plain.seek(number or 0, whence)
        assert file.tell() == plain.tell()


def target(offset: int, whence: int, position: int, size: int) -> int:
    return offset + {io.SEEK_SET: 0, io.SEEK_CUR: position, io.SEEK_END: size}[whence]


@given(size=sizes, plan=st.lists(steps, max_size=40))
def test_any_seeks_and_reads_return_what_a_plain_file_returns(size: int, plan: list[Step]) -> None:
    contents = CONTENTS[:size]
    requests: list[tuple[int, int]] = []

    def fetch(start: int, end: int) -> bytes:
        requests.append((start, end))
        return contents[start:end]

    check_steps(plan, RangeFile(fetch, size), io.BytesIO(contents))
    assert all(0 <= start < end <= size and start % BLOCK == 0 for start, end in requests), requests


@given(size=sizes, plan=st.lists(steps, max_size=40))
def test_a_server_without_range_support_sends_the_file_once(size: int, plan: list[Step]) -> None:
    contents = CONTENTS[:size]
    requests: list[tuple[int, int]] = []

    def fetch(start: int, end: int) -> bytes:
        requests.append((start, end))
        return contents

    check_steps(plan, RangeFile(fetch, size), io.BytesIO(contents))
    # A request for the whole file cannot tell; the first one for less does.
    assert all(end - start == size for start, end in requests[:-1]), requests


@given(
    size=sizes,
    plan=st.lists(steps, max_size=40),
    shorts=st.lists(st.integers(0, 4 * BLOCK), max_size=40),
)
def test_truncated_responses_never_shift_the_data(
    size: int, plan: list[Step], shorts: list[int]
) -> None:
    contents = CONTENTS[:size]
    remaining = list(shorts)

    def fetch(start: int, end: int) -> bytes:
        return contents[start:end][: remaining.pop() if remaining else None]

    file = RangeFile(fetch, size)
    for name, number, whence in plan:
        position = file.tell()
        if name == "read":
            data = file.read(number)
            assert data == contents[position : position + len(data)]
            assert file.tell() == position + len(data)
        elif target(number or 0, whence, position, size) >= 0:
            file.seek(number or 0, whence)
    remaining.clear()
    file.seek(0)
    assert file.read() == contents  # a file that is served whole again reads correctly


def test_sequential_reads_request_more_at_a_time() -> None:
    requests: list[tuple[int, int]] = []

    def fetch(start: int, end: int) -> bytes:
        requests.append((start, end))
        return CONTENTS[start:end]

    file = RangeFile(fetch, len(CONTENTS))
    while file.read(BLOCK // 2):
        pass
    lengths = [(end - start) // BLOCK for start, end in requests]
    assert lengths == [2, 4, 4, 4, 4, 4, 4, 4, 4, 4, 2]
    # Nothing is fetched twice.
    assert b"".join(CONTENTS[start:end] for start, end in requests) == CONTENTS


def test_a_scene_is_read_from_a_web_server_without_ranges(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "scene.tif", 700, 600)
    handler = partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/scene.tif"
        scene = describe(InputFile("scene.tif", url, "v1"), Settings(), 3)
        values_CHW = read_pixels(scene, Rect(300, 200, 400, 300)).values_CHW
        server.shutdown()
    with rasterio.open(path) as src:
        assert (values_CHW == src.read()[:, 200:500, 300:700]).all()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
