"""The compiled loops of the network give what torch's own operations give."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segformer import SegFormer, mit_config
from segformer.operations import cpu, cpu_loops, plain, torch_threads
from segformer.operations.choice import operations
from segformer.operations.cpu import Axis, ExpandedDepthwise, UpsampledSum, add_norm
from segformer.operations.pointers import bfloats, floats, load, store
from segformer.operations.torch_threads import ParallelLoop
from tests.support.checkpoints import SMALL, random_checkpoint

DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 0.06}
"""The largest difference allowed; for bfloat16 the last bit of numbers below 8."""


@pytest.fixture(autouse=True, params=[1, 2, 3], ids=lambda n: f"{n}-threads")
def thread_count(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_close(result: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert result.dtype == dtype
    assert result.shape == expected.shape
    assert (result.double() - expected).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("images", "height", "width", "channels"),
    [(1, 1, 1, 8), (1, 1, 5, 8), (2, 4, 1, 8), (1, 2, 2, 33), (2, 3, 7, 40), (1, 16, 16, 128)],
)
def test_the_fused_depthwise_convolution_equals_torchs(
    dtype: torch.dtype, images: int, height: int, width: int, channels: int
) -> None:
    linear = nn.Linear(16, channels)
    depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    x_NTC = normal(images, height * width, 16).to(dtype)
    with torch.no_grad():
        linear.weight.copy_(linear.weight.to(dtype))
        linear.bias += 1  # so that a wrong edge is noticed
        expected = linear.double()(x_NTC.double()).unflatten(1, (height, width))
        expected = F.gelu(depthwise.double()(expected.permute(0, 3, 1, 2)))
        fused = ExpandedDepthwise(linear.to(dtype), depthwise.float())
        result = fused(x_NTC, height, width)
    assert_close(result, expected.permute(0, 2, 3, 1).flatten(1, 2), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("channels", [8, 33, 320])
def test_the_fused_add_and_norm_equal_torchs(
    dtype: torch.dtype, has_bias: bool, channels: int
) -> None:
    norm = nn.LayerNorm(channels, eps=1e-3)
    bias_C = normal(channels, seed=3).to(dtype) if has_bias else None
    with torch.no_grad():
        norm.weight.copy_(normal(channels, seed=4))
        norm.bias.copy_(normal(channels, seed=5))
    norm.to(dtype)
    x_NTC, y_NTC = (normal(2, 35, channels, seed=s).to(dtype) for s in (1, 2))
    total = x_NTC.double() + y_NTC.double() + (0 if bias_C is None else bias_C.double())
    with torch.no_grad():
        added, normed = add_norm(x_NTC, y_NTC, bias_C, norm)
        assert_close(added, total, dtype)
        assert_close(normed, norm.double()(total), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("finest", "coarser"),
    [
        ((8, 8), [(4, 4), (2, 2), (1, 1)]),
        ((33, 25), [(17, 13), (9, 7), (5, 4)]),
        ((1, 1), [(1, 1)]),
        ((6, 9), []),
    ],
)
def test_the_upsampled_sum_equals_torchs_interpolation(
    dtype: torch.dtype, finest: tuple[int, int], coarser: list[tuple[int, int]]
) -> None:
    channels = 24
    finest_map = normal(*finest, channels).to(dtype)
    maps = [normal(*size, channels, seed=s).to(dtype) for s, size in enumerate(coarser, 1)]
    bias_C = normal(channels, seed=9)
    expected = finest_map.double() + bias_C
    for x_hwC in maps:
        y = x_hwC.permute(2, 0, 1)[None].double()
        expected += F.interpolate(y, finest, mode="bilinear")[0].permute(1, 2, 0)
    upsampled = UpsampledSum(finest, maps)
    for row in range(0, finest[0], 5):  # strips, the last one short
        upsampled.add_to(finest_map[row : row + 5], row, bias_C)
    assert_close(finest_map, expected.relu(), dtype)


@pytest.mark.parametrize(("size", "coarser"), [(128, 64), (130, 65), (97, 49), (5, 1), (64, 64)])
def test_an_axis_interpolates_as_torch_does(size: int, coarser: int) -> None:
    axis, x = Axis.of(size, coarser), normal(coarser)
    first, second = x[axis.neighbors_n2[:, 0]], x[axis.neighbors_n2[:, 1]]
    weight = torch.from_numpy(axis.weight_n)
    expected = F.interpolate(x[None, None, None], (1, size), mode="bilinear")[0, 0, 0]
    # Weights differ in the last bit.
    assert (first * (1 - weight) + second * weight - expected).abs().max() <= 1e-5


def test_gelu_is_exact_to_float32() -> None:
    @numba.njit
    def of_all(x, out, gelu):  # type: ignore[no-untyped-def]
        for i in range(len(x)):
            out[i] = gelu(x[i])

    x = np.concatenate([np.linspace(-12, 12, 200_001), [0.0, 1e-30, -40, 40]]).astype(np.float32)
    out = np.empty_like(x)
    of_all(x, out, cpu_loops._gelu)
    exact = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x.astype(float)])
    assert np.abs(out - exact)[np.abs(x) < 6].max() <= 1e-6
    assert (np.abs(out - exact) <= 2e-7 * np.maximum(1, np.abs(x))).all()


def test_bfloat16_is_rounded_as_torch_does() -> None:
    x = torch.cat([normal(2000) * 10.0 ** normal(2000, seed=1), normal(500).bfloat16().float()])
    ties = torch.arange(200, dtype=torch.int32) * 0x8000 + 0x3F800000
    x = torch.cat([x, ties.view(torch.float32), torch.tensor([math.inf, -math.inf, 3.4e38, 0.0])])
    out = torch.empty(len(x), dtype=torch.bfloat16)

    def copy(job, part, parts):  # type: ignore[no-untyped-def]
        for n in range(part, job[0], parts):
            store(bfloats(job[2]), n, load(floats(job[1]), n))

    copying = ParallelLoop(copy)
    copying(len(x), x, out)
    assert torch.equal(out.view(torch.int16), x.bfloat16().view(torch.int16))
    copying(1, torch.tensor([math.nan]), out)
    assert out[0].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_reach_the_logits(dtype: torch.dtype, bad: float) -> None:
    """Otherwise a class would be written for pixels of which the network says nothing."""
    model = SegFormer(random_checkpoint(mit_config("b0", 4, **SMALL), seed=1)).to(dtype=dtype)
    pixels_NCHW = normal(2, 3, 64, 64).to(dtype)
    assert model(pixels_NCHW).isfinite().all()
    pixels_NCHW[1, 0, 30, 30] = bad
    logits_NKHW = model(pixels_NCHW)
    assert logits_NKHW[0].isfinite().all()
    assert not logits_NKHW[1].isfinite().all()


def test_threads_do_not_change_a_loops_result(thread_count: int) -> None:
    norm, x_NTC, y_NTC = nn.LayerNorm(40), normal(1, 101, 40), normal(1, 101, 40, seed=1)
    several = add_norm(x_NTC.clone(), y_NTC, None, norm)
    torch.set_num_threads(1)
    alone = add_norm(x_NTC.clone(), y_NTC, None, norm)
    assert all(torch.equal(*pair) for pair in zip(several, alone, strict=True))
    assert thread_count >= 1


def test_each_thread_computes_its_part(thread_count: int) -> None:
    """All of torch's threads take part if torch has the OpenMP that loops can use."""
    marks = torch.full((thread_count, 2), -1.0)

    def mark(job, part, parts):  # type: ignore[no-untyped-def]
        store(floats(job[0]), 2 * part, np.float32(part))
        store(floats(job[0]), 2 * part + 1, np.float32(parts))

    ParallelLoop(mark)(marks)
    if torch_threads._OPENMP is None:
        assert marks[0].tolist() == [0, 1]
    else:
        assert marks.tolist() == [[part, thread_count] for part in range(thread_count)]


def test_weights_of_another_type_are_packed_again() -> None:
    model = SegFormer(random_checkpoint(mit_config("b0", 4, **SMALL), seed=1))
    pixels_NCHW = normal(1, 3, 64, 64)
    first = model(pixels_NCHW)
    coarse = model.bfloat16()(pixels_NCHW.bfloat16()).float()
    again = model.float()(pixels_NCHW)
    assert 0 < (first - again).abs().max() < 0.5  # the weights have been rounded meanwhile
    assert (coarse - again).abs().max() < 0.5
    ffn = model.stages[0].blocks[0].ffn
    ffn.double()
    assert ffn._mixer is None


def test_other_devices_and_types_use_torchs_operations() -> None:
    assert operations(torch.zeros(1)) is cpu
    assert operations(torch.zeros(1, dtype=torch.float16)) is plain
    assert operations(torch.zeros(1, dtype=torch.float64)) is plain
    assert operations(torch.zeros(1, device="meta")) is plain


def test_a_loop_runs_without_a_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))

    def fill(job, part, parts):  # type: ignore[no-untyped-def]
        if part == 0:
            store(floats(job[0]), 0, np.float32(parts))

    out = torch.zeros(1)
    ParallelLoop(fill)(out)
    assert out[0] >= 1
