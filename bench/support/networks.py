"""A network's forward pass by each contestant: ours, transformers, OpenVINO and ONNX Runtime.

All take normalized float32 pixels of one shape and compute one batch at a time with the same number
of threads; conversions to other types are part of their time. OpenVINO and ONNX Runtime get
transformers' network, which they convert. OpenVINO's type is always asked for by name: by itself it
computes in bfloat16 wherever the processor has AMX. ONNX Runtime has no bfloat16 on CPUs (its
convolution refuses it). Knows neither clocks nor rounds.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.engine.forward import TORCH_DTYPES
from segformer import load_model

BATCHES = (1, 2, 4, 8)
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
"""OpenVINO's names."""
CALIBRATION_IMAGES = 32
"""Images from which NNCF takes the ranges of int8."""

Run = Callable[[torch.Tensor], torch.Tensor]
"""From float32 pixels_NCHW to logits_NKhw, which its next call may overwrite."""
Make = Callable[[int], Run]
"""From a batch to a network that is ready for it. (All batches at once would take all memory.)"""


@dataclass(frozen=True)
class Task:
    """What all contestants get."""

    folder: str
    """The checkpoint, in transformers' format."""
    images_NCHW: torch.Tensor
    """Normalized square images, float32, as many as the largest batch."""
    calibration_NCHW: torch.Tensor
    """Other such images, for NNCF."""
    dtypes: tuple[str, ...]
    threads: int
    device: str
    scratch: Path
    """A folder for converted networks."""


def ours(task: Task) -> dict[str, Make]:
    models = {d: load_model(task.folder).to(task.device, TORCH_DTYPES[d]) for d in task.dtypes}
    return {f"ours, {dtype}": _any_batch(model, dtype) for dtype, model in models.items()}


def transformers(task: Task) -> dict[str, Make]:
    """With its eager attention, in float32, and with SDPA, its default."""
    eager = _any_batch(_transformers(task, "float32", "eager"), "float32")
    sdpa = {
        f"transformers SDPA, {dtype}": _any_batch(_transformers(task, dtype), dtype)
        for dtype in task.dtypes
    }
    return {"transformers eager, float32": eager, **sdpa}


def transformers_compiled(task: Task) -> dict[str, Make]:
    """SDPA by torch.compile, each batch compiled for its own shape, which takes minutes."""
    models = {d: torch.compile(_transformers(task, d), dynamic=False) for d in task.dtypes}
    return {f"transformers compiled, {d}": _any_batch(model, d) for d, model in models.items()}


def openvino(task: Task) -> dict[str, Make]:
    """float32, bfloat16, and int8 by post-training quantization with either of them for what is
    not quantized. One stream, as low a latency as it can.

    Depthwise convolutions are not quantized: with them in int8, OpenVINO 2026.4 gave 9 to 37 % of
    the example's pixels another class; 0.3 % when it computed the same quantized network in float32
    (docs/log.md).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of shapes that depend on no image
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # no report home
        import nncf  # noqa: PLC0415  `make bench` has it
        import openvino as ov  # noqa: PLC0415  `make bench` has it

        nncf.set_log_level(logging.ERROR)
        _, *image = task.images_NCHW.shape
        floats = ov.convert_model(
            _transformers(task, "float32"),
            example_input=task.images_NCHW[:1],
            input=[-1, *image],
        )
        floats.reshape([1, *image])
        images = [image_CHW[None].numpy() for image_CHW in task.calibration_NCHW]
        integers = nncf.quantize(
            floats,
            nncf.Dataset(images),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(types=["GroupConvolution"]),
            subset_size=len(images),
        )
    core = ov.Core()

    def make(network: Any, dtype: str, batch: int) -> Run:
        options = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": task.threads,
            "NUM_STREAMS": 1,
        }
        network.reshape([batch, *image])
        return _infer(core.compile_model(network, "CPU", options).create_infer_request())

    return {
        f"OpenVINO, {prefix}{dtype}": partial(make, network, dtype)
        for prefix, network in (("", floats), ("int8 and ", integers))
        for dtype in task.dtypes
    }


def onnx_runtime(task: Task) -> dict[str, Make]:
    """All graph optimizations; one exported graph for each batch."""
    import onnxruntime  # noqa: PLC0415  `make bench` has it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    model = _transformers(task, "float32")

    def make(batch: int) -> Run:
        path, images_NCHW = task.scratch / f"{batch}.onnx", task.images_NCHW[:batch]
        if not path.exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(model, (images_NCHW,), path, dynamo=True, verbose=False)
        providers = ["CPUExecutionProvider"]
        return _bind(onnxruntime.InferenceSession(path, options, providers=providers))

    return {"ONNX Runtime, float32": make}


CONTESTANTS: dict[str, Callable[[Task], dict[str, Make]]] = {
    "ours": ours,
    "transformers": transformers,
    "compiled": transformers_compiled,
    "openvino": openvino,
    "onnxruntime": onnx_runtime,
}
CPU_ONLY = frozenset({"openvino", "onnxruntime"})


class _Logits(torch.nn.Module):
    """transformers' network as a function from one tensor to another, as converters want it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        logits_NKhw: torch.Tensor = self.model(pixel_values=pixels_NCHW, return_dict=False)[0]
        return logits_NKhw


def _transformers(task: Task, dtype: str, attention: str = "sdpa") -> torch.nn.Module:
    from transformers import SegformerForSemanticSegmentation  # noqa: PLC0415  takes seconds

    model = SegformerForSemanticSegmentation.from_pretrained(
        task.folder, attn_implementation=attention
    )
    return _Logits(model.eval().to(task.device, TORCH_DTYPES[dtype]))


def _any_batch(model: Run, dtype: str) -> Make:
    """For a model that takes batches of any size."""
    return lambda _: lambda pixels_NCHW: model(pixels_NCHW.to(TORCH_DTYPES[dtype]))


def _infer(request: Any) -> Run:
    """An OpenVINO request, without copies of pixels and logits."""

    def run(pixels_NCHW: torch.Tensor) -> torch.Tensor:
        results = request.infer([pixels_NCHW.numpy()], share_inputs=True, share_outputs=True)
        return torch.from_numpy(results[0])

    return run


def _bind(session: Any) -> Run:
    """An ONNX Runtime session that reads and writes torch's memory, without copies."""
    (pixels,), (logits,) = session.get_inputs(), session.get_outputs()
    logits_NKhw = torch.empty(logits.shape)
    binding = session.io_binding()
    place = ("cpu", 0, "float32")
    binding.bind_output(logits.name, *place, logits_NKhw.shape, logits_NKhw.data_ptr())

    def run(pixels_NCHW: torch.Tensor) -> torch.Tensor:
        binding.bind_input(pixels.name, *place, pixels_NCHW.shape, pixels_NCHW.data_ptr())
        session.run_with_iobinding(binding)
        return logits_NKhw

    return run
