"""The three blends give the same bits. The compiled one is compiled once, whatever happens to its
cache; the Triton kernel runs in Triton's interpreter and compiles for a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.engine.blend import MakeBlend
from pipeline.engine.blend_loops import blend_strip
from pipeline.engine.blend_plain import PlainBlend
from pipeline.engine.confidence import MIN_EXPONENT, exponential
from pipeline.engine.stitcher import Stitcher, blend_on
from pipeline.grid import WindowGrid, cores
from pipeline.unit import Stitched
from segformer.compiled import Compiled
from tests.support.triton_interpreter import run_with_triton

Logits = dict[tuple[int, int], torch.Tensor]


class Case:
    """A scene covered by windows of random logits, with pixels that are not valid."""

    def __init__(
        self,
        size: tuple[int, int],
        window: tuple[int, int, int],
        classes: int,
        seed: int,
        corners: bool = False,
    ):
        """size: height and width. window: its edge, its stride, and the edge of its logits.
        corners: align_corners."""
        self.size, self.classes, self.corners = size, classes, corners
        edge, stride, self.low = window
        self.grid = WindowGrid.of(size[1], size[0], edge, stride)
        rng = np.random.default_rng(seed)
        self.valid_HW = rng.random(size) < rng.choice([1, 0.9, 0.01])
        places = [(r, c) for r in range(self.grid.rows.count) for c in range(self.grid.cols.count)]
        self.logits = {place: self._logits(rng) for place in places if self._has_pixels(place)}

    def _logits(self, rng: np.random.Generator) -> torch.Tensor:
        """Random logits (classes, low, low), sometimes whole numbers, in any memory order."""
        values = rng.normal(0, 3, (self.classes, self.low, self.low)).astype(np.float32)
        if rng.random() < 0.3:
            values = values.round()
        order = rng.permutation(3)
        stored = torch.from_numpy(np.ascontiguousarray(values.transpose(order)))
        return stored.permute(*np.argsort(order).tolist())

    def _has_pixels(self, place: tuple[int, int]) -> bool:
        y, x = self.grid.rows.origin(place[0]), self.grid.cols.origin(place[1])
        edge = self.grid.rows.window_px
        return bool(self.valid_HW[y : y + edge, x : x + edge].any())

    def blended(self, make_blend: MakeBlend, block: int = 512) -> list[Stitched]:
        results = []
        for core in cores(self.size[1], self.size[0], block, block):
            height, width = (
                slice(core.row_off, core.row_end),
                slice(core.col_off, core.col_end),
            )
            valid_HW = self.valid_HW[height, width]
            stitcher = Stitcher(self.grid, core, valid_HW, self.classes, make_blend, self.corners)
            rows, cols = self.grid.touching(core)
            for place in [(row, col) for row in rows for col in cols]:
                if place in self.logits:
                    stitcher.add(*place, self.logits[place])
            results.append(stitcher.close())
        return results


def assert_equal(one: list[Stitched], other: list[Stitched]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.class_ids_HW.dtype == b.class_ids_HW.dtype
        np.testing.assert_array_equal(a.class_ids_HW, b.class_ids_HW)
        np.testing.assert_array_equal(a.confidence_TK, b.confidence_TK)
        np.testing.assert_array_equal(a.samples_TK, b.samples_TK)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    low = draw(st.integers(1, 20))
    edge = draw(st.sampled_from([4 * low, 4 * low, 4 * low - 3, 3 * low, 8 * low, low]))
    stride = draw(st.integers(-(-edge // 3), edge))
    classes = draw(st.sampled_from([1, 2, 3, 4, 5, 6, 150, 300]))
    longest = 4 * edge if classes <= 6 else edge + 5
    size = draw(st.tuples(st.integers(1, longest), st.integers(1, longest)))
    return Case(size, (edge, stride, low), classes, draw(st.integers(0, 1000)), draw(st.booleans()))


@settings(max_examples=120, deadline=None)
@given(cases())
@example(Case((520, 600), (64, 48, 16), 3, 0))
@example(Case((90, 131), (64, 37, 16), 300, 1))
@example(Case((520, 600), (64, 48, 16), 3, 0, corners=True))
@example(Case((90, 131), (64, 37, 16), 300, 1, corners=True))
def test_the_compiled_blend_equals_the_plain_one(case: Case) -> None:
    plain = case.blended(PlainBlend)
    assert_equal(case.blended(blend_on("cpu", case.classes)), plain)
    assert (
        blend_strip.variants() <= 2
    )  # uint8 and uint16: nothing is compiled in the middle of a job


@pytest.mark.parametrize("corners", [False, True])
def test_the_blend_equals_upsampling_in_float64_except_for_ties(corners: bool) -> None:
    case = Case((301, 263), (128, 90, 32), 6, 5, corners)
    total = torch.zeros(case.classes, *case.size, dtype=torch.float64)
    count = torch.zeros(case.size)
    for (row, col), logits_Khw in case.logits.items():
        y, x = case.grid.rows.origin(row), case.grid.cols.origin(col)
        exact = logits_Khw[None].double().contiguous()
        full = F.interpolate(exact, size=(128, 128), mode="bilinear", align_corners=corners)[0]
        total[:, y : y + 128, x : x + 128] += full
        count[y : y + 128, x : x + 128] += 1
    best, second = (total / count).topk(2, dim=0).values.numpy()
    decided = case.valid_HW & (best - second > 1e-5)
    ids_HW = case.blended(blend_on("cpu", 6))[0].class_ids_HW
    assert decided.sum() > 0.98 * case.valid_HW.sum() > 0
    np.testing.assert_array_equal(ids_HW[decided], total.argmax(dim=0).numpy()[decided])


def test_the_exponential_has_a_relative_error_below_2e_7() -> None:
    x = torch.linspace(MIN_EXPONENT, 0, 1_000_001)
    exact = np.exp(x.numpy().astype(np.float64))
    assert np.abs(exponential(x).numpy() / exact - 1).max() < 2e-7
    assert exponential(torch.tensor([0.0])).item() == 1
    assert exponential(torch.tensor([-1e30])).item() == pytest.approx(np.exp(MIN_EXPONENT))


def add_one(values: np.ndarray) -> None:
    for i in range(len(values)):
        values[i] += 1


def run_compiled_loop() -> bool:
    values = np.zeros(3)
    Compiled(add_one)("float64", values)
    return bool((values == 1).all())


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_machine_code_is_cached_and_a_truncated_file_of_it_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert run_compiled_loop()
    files = files_below(tmp_path)
    assert files
    before = {path: path.stat().st_mtime_ns for path in files}
    assert run_compiled_loop()
    assert {path: path.stat().st_mtime_ns for path in files_below(tmp_path)} == before
    for path in files:
        path.write_bytes(path.read_bytes()[:10])
    assert run_compiled_loop()


def test_a_loop_works_without_a_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert run_compiled_loop()
    assert files_below(tmp_path) == [tmp_path / "file"]


@pytest.mark.slow
def test_processes_that_start_at_once_share_the_machine_code(tmp_path: Path) -> None:
    program = "from tests.test_blend import run_compiled_loop; assert run_compiled_loop()"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "error::Warning:numba", "-c", program]
    processes = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(3)
    ]
    for process in processes:
        _, stderr = process.communicate(timeout=200)
        assert (process.returncode, stderr) == (0, b"")


TRITON_CASES = [
    ((9, 10), (8, 6, 2), 2),
    ((7, 11), (8, 3, 2), 3),  # origins that share no positions
    ((7, 9), (9, 5, 2), 2),
    ((1, 1), (8, 8, 2), 257),
]
CORNER_CASES = [
    ((9, 10), (8, 6, 2), 2),
    ((7, 11), (8, 3, 2), 3),
    ((9, 8), (8, 7, 2), 2),  # origins that share positions
]


def triton_cases(*larger: tuple[tuple[int, int], tuple[int, int, int], int]) -> list[Case]:
    cases = [Case(*case, seed) for seed, case in enumerate([*TRITON_CASES, *larger])]
    corner_cases = enumerate([*CORNER_CASES, *larger], start=1)
    return [*cases, *(Case(*case, seed, corners=True) for seed, case in corner_cases)]


def assert_interpreted_equals_plain() -> None:
    from pipeline.engine.blend_cuda import TritonBlend  # noqa: PLC0415  only where Triton may be loaded

    for case in triton_cases():
        assert case.logits
        assert_equal(
            case.blended(lambda region: TritonBlend(region, "cpu")), case.blended(PlainBlend)
        )


def assert_kernels_fuse_nothing() -> None:
    """Compile the kernels to machine code for an H100, which needs no GPU."""
    from triton import compile as compile_kernel  # noqa: PLC0415
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    from pipeline.engine.blend_cuda import (  # noqa: PLC0415
        PROGRAM_CLASSES,
        PROGRAM_PIXELS,
        PROGRAM_POSITIONS,
    )
    from pipeline.engine.blend_triton import decide, sum_windows  # noqa: PLC0415

    pointers = {"*i64": ("strip", "columns", "tiles", "out_confidence", "out_samples")}
    pointers |= {"*fp32": ("row_weights", "column_weights", "shares", "sums")}
    pointers |= {"*u8": ("valid", "out_ids")}
    kinds = {name: kind for kind, names in pointers.items() for name in names}
    sizes = {"program_positions": PROGRAM_POSITIONS, "program_classes": PROGRAM_CLASSES}
    cases = [(sum_windows, sizes)]
    cases += [
        (decide, {"step": step, "single": single, "program_pixels": PROGRAM_PIXELS})
        for step in (1, 4)
        for single in (False, True)
    ]
    for kernel, constants in cases:
        signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
        signature |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(kernel, signature, constants)
        options = {"enable_fp_fusion": False}
        compiled = compile_kernel(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert compiled.asm["cubin"]
        assert "add.f32" in compiled.asm["ptx"] or "add.rn.f32" in compiled.asm["ptx"]
        assert "fma" not in compiled.asm["ptx"]


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is available for Linux only")
@pytest.mark.slow
def test_the_triton_blend_equals_the_plain_one_in_its_interpreter() -> None:
    run_with_triton(__name__, "assert_interpreted_equals_plain", interpret="1")


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is available for Linux only")
def test_the_triton_kernels_compile_for_a_gpu_and_fuse_nothing() -> None:
    run_with_triton(__name__, "assert_kernels_fuse_nothing", interpret="0")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_triton_blend_equals_the_plain_one_on_a_gpu() -> None:
    for case in triton_cases(((600, 700), (128, 96, 32), 150)):
        plain = case.blended(PlainBlend)
        case.logits = {place: logits.cuda() for place, logits in case.logits.items()}
        assert_equal(case.blended(blend_on("cuda", case.classes)), plain)
