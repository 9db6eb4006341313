"""An estimate as `swath plan` gets it, made up."""

from __future__ import annotations

from pipeline.estimate import Estimate, Rate
from pipeline.failure import Failure


def estimate() -> Estimate:
    """An estimate of three inputs, one of which is no image."""
    failure = Failure("b", "b.tif", "describe", None, "InputError", "not an image")
    return Estimate(
        inputs=3, scenes=2, failures=(failure,), units=4, windows=100, windows_computed=125,
        megapixels=12.34, km2=None, read_bytes=10**9, memory_bytes=2 * 10**9, hours=0.5,
        rate=Rate(0.02), replicas=3, device="cpu", batch=4, notes=("small scenes",),
        memory={"total": 9 * 10**9},
    )  # fmt: skip
