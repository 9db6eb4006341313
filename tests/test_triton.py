"""The network's operations and window cutting as Triton kernels: compared with those for CPUs in
Triton's interpreter, compiled for a GPU, and run on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.engine.window_cutter import Cutter, HostCutter, WindowPixels
from segformer import Normalisation, SegFormer, mit_config
from tests.support.archives import write_scene
from tests.support.checkpoints import SMALL, random_checkpoint, save_small
from tests.support.triton_interpreter import run_with_triton

EDGE_PX = 24
DTYPES = (np.uint8, np.int16, np.uint16, np.uint32, np.float32, np.float64)
HALF = (torch.float16, torch.bfloat16)
linux = pytest.mark.skipif(sys.platform != "linux", reason="Triton is there for Linux only")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def windows_of(cutter: Cutter, dtype: type, device: str) -> torch.Tensor:
    """Four windows of two blocks, at edges and inside, in the first four places of six."""
    rng = np.random.default_rng(0)
    held = []
    for height in (40, 41):
        values_CHW = (rng.random((3, height, 37)) * 250).astype(dtype)
        if np.dtype(dtype).kind == "f":
            values_CHW[0, 3, 3], values_CHW[1, 4, 5] = np.nan, np.inf
        held.append(cutter.hold(values_CHW, rng.random((height, 37)) > 0.2))
    shape = (6, 3, EDGE_PX, EDGE_PX)
    x_NCHW = torch.full(shape, 7.0, device=device).contiguous(memory_format=torch.channels_last)
    places = [(0, 0, 0), (0, 20, 20), (1, 17, 3), (1, 30, 30)]
    scaling = [(0.37, 1.5), (1.0, 0.0)]
    cutter.cut([WindowPixels(held[block], y, x, *scaling[block]) for block, y, x in places], x_NCHW)
    return x_NCHW.cpu()


def assert_cuts_equal(device: str) -> None:
    from pipeline.engine.window_cutter_cuda import DeviceCutter  # noqa: PLC0415  only where Triton may be loaded

    normalisation = Normalisation.default(3)
    for dtype in DTYPES:
        expected = windows_of(HostCutter(normalisation), dtype, "cpu")
        windows = windows_of(DeviceCutter(normalisation, EDGE_PX, device), dtype, device)
        assert torch.equal(windows, expected)
        assert (expected[4:] == 7).all()
        assert len(expected[:4].unique()) > 100


def interpreted_cuts_equal_the_hosts() -> None:
    assert_cuts_equal("cpu")


def interpreted_operations_equal_torchs() -> None:
    """Whole networks are compared, at sizes that are no multiple of anything, with every head."""
    from segformer import network  # noqa: PLC0415
    from segformer.operations import cuda, plain  # noqa: PLC0415

    cuda._LANES = cuda._DECODED_LANES = cuda._PIXELS = 16  # otherwise it takes minutes
    at_once: dict[str, Any] = {"_decode_in_steps": cuda._decode_at_once}
    for head, changes, classes in (("mlp", {}, 4), ("conv", at_once, 4), ("mlp", at_once, 20)):
        vars(cuda).update(changes)
        checkpoint = random_checkpoint(mit_config("b0", classes, head=head, **SMALL), seed=1)
        x_NCHW = torch.randn(2, 3, 33, 40, generator=torch.Generator().manual_seed(0))
        logits = []
        for operations in (plain, cuda):
            network.operations = lambda _, operations=operations: operations
            logits.append(SegFormer(checkpoint)(x_NCHW))
        assert (logits[0] - logits[1]).abs().max() < 1e-5 < logits[0].abs().max() / 1e4


def interpreted_gelu_is_that_of_half_precision() -> None:
    """In half precision the kernel uses a polynomial instead of the error function."""
    from segformer.operations.cuda import ExpandedDepthwise  # noqa: PLC0415

    x_1TC = torch.linspace(-9, 9, 4 * 64)[None, :, None].half()
    linear, depthwise = nn.Linear(1, 1), nn.Conv2d(1, 1, 3, padding=1, groups=1)
    with torch.no_grad():
        linear.weight.fill_(1)
        linear.bias.fill_(0)
        depthwise.weight.zero_()[:, :, 1, 1] = 1
        depthwise.bias.fill_(0)  # type: ignore[union-attr]
        actual = ExpandedDepthwise(linear.half(), depthwise.half())(x_1TC, 16, 16)
    expected = F.gelu(x_1TC.double())
    last_bit = 2.0**-11 * expected.abs().clamp(min=2.0**-6)
    assert ((actual.double() - expected).abs() <= last_bit + 2e-5).all()


@linux
@pytest.mark.parametrize(
    "program",
    [
        interpreted_cuts_equal_the_hosts,
        pytest.param(interpreted_operations_equal_torchs, marks=pytest.mark.slow),
        interpreted_gelu_is_that_of_half_precision,
    ],
)
def test_interpreted_kernels_equal_the_operations_for_cpus(program: Callable[[], None]) -> None:
    run_with_triton(__name__, program.__name__, interpret="1")


def compile_network_kernels() -> None:
    """Compile to code for an H100, which takes no GPU; what a thread holds fits in registers."""
    from triton import compile as compile_kernel  # noqa: PLC0415
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    from segformer.operations import cuda, cuda_decoder_kernels, cuda_kernels  # noqa: PLC0415

    numbers = {"height", "width", "channels", "count", "inputs", "classes"}
    numbers |= {f"{side}_{scale}" for side in ("height", "width") for scale in (1, 2, 3)}
    lanes = {"lanes": cuda._DECODED_LANES, "input_lanes": 64}
    spans = {"pixels": cuda._PIXELS, "span_1": 64, "span_2": 32, "span_3": 16}
    norm = {"adds": True, "has_bias": True, "norms_first": False, "keeps": True}
    cases: list[tuple[Any, str, dict[str, Any]]] = [
        (cuda_kernels.add_norm, "*fp16", norm | {"tokens": 4, "lanes": 512}),
        (cuda_kernels.depthwise_gelu, "*fp16", {"rows": 8, "pairs": 4, "lanes": 64}),
        (cuda_kernels.depthwise_gelu, "*fp32", {"rows": 8, "pairs": 4, "lanes": 64}),
        (cuda_decoder_kernels.upsampled_sum, "*fp32", {"pixels": 16, "lanes": 128}),
        (cuda_decoder_kernels.decode, "*fp16", spans | lanes | {"class_lanes": 16}),
        (cuda_decoder_kernels.decode, "*bf16", spans | lanes | {"class_lanes": 64}),
    ]
    for kernel, kind, constants in cases:
        signature = {
            name: "fp32" if name.endswith("eps") else "i32" if name in numbers else kind
            for name in kernel.arg_names
        }
        signature |= {"taps": "*fp32"} if "taps" in signature else {}
        signature |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(kernel, signature, constants)
        options = {"num_stages": 1}
        binary = compile_kernel(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert binary.asm["cubin"]
        assert binary.metadata.shared <= 227 * 1024


@linux
def test_the_networks_kernels_compile_for_a_gpu() -> None:
    run_with_triton(__name__, "compile_network_kernels", interpret="0")


@pytest.mark.gpu
@gpu
def test_cuts_equal_the_hosts_on_a_gpu() -> None:
    assert_cuts_equal("cuda")


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("classes", [5, 150])
@pytest.mark.parametrize(("size", "head"), [("b0", "mlp"), ("b0", "conv"), ("b2", "mlp")])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 3e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)],
)
def test_logits_on_a_gpu_equal_those_on_a_cpu(
    size: str, head: str, classes: int, dtype: torch.dtype, tolerance: float
) -> None:
    """They agree with the CPU's in float32; a window has the same bits in any slot of a batch."""
    torch.backends.cudnn.allow_tf32 = False
    checkpoint = random_checkpoint(mit_config(size, classes, head=head), seed=1)
    x_NCHW = torch.randn(6, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    expected = SegFormer(checkpoint)(x_NCHW[:2])
    model = SegFormer(checkpoint).to("cuda", dtype)
    batch = x_NCHW.to("cuda", dtype)
    logits = model(batch)
    error = (logits[:2].float().cpu() - expected).norm() / expected.norm()
    assert error < tolerance
    for slots in ((1, 0, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0)):
        assert torch.equal(model(batch[list(slots)]), logits[list(slots)])


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("runner", ["local", "ray"])
def test_a_run_on_a_gpu_finds_the_classes_of_a_run_on_a_cpu(tmp_path: Path, runner: str) -> None:
    """The classes are those of a run on the CPU, except where two of them are nearly equal."""
    checkpoint = save_small(tmp_path / "checkpoint")
    scene = write_scene(tmp_path / "scene.tif", 1500, 1300, seed=1)
    masks = []
    for device, visible in (("cuda", {}), ("cpu", {"CUDA_VISIBLE_DEVICES": ""})):
        out = tmp_path / device
        command = [sys.executable, "-m", "jobs.cli", "run", str(scene), "--checkpoint", checkpoint]
        command += ["--output", str(out), "--runner", runner]
        done = subprocess.run(command, env=os.environ | visible, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        job = json.loads((out / "job.json").read_text())
        assert (job["device"], job["settings"]["batch"]) == (device, 32 if visible == {} else 1)
        tiles = pq.read_table(out / "masks").sort_by(
            [("tile_row", "ascending"), ("tile_col", "ascending")]
        )
        masks.append(np.frombuffer(b"".join(tiles["mask"].to_pylist()), np.uint8))
    assert (masks[0] != masks[1]).mean() < 1e-4
    assert len(np.unique(masks[0])) > 1
