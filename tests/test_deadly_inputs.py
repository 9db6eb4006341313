"""Files that crash, hang or exhaust the process that reads them, among good ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.api import run
from pipeline.settings import Execution, Settings
from tests.support.archives import write_scene
from tests.support.outputs import differences, rows, stray_files

SETTINGS = Settings(window=64, stride=48, batch=2)
CODE = {
    "crash": "import os; os.kill(os.getpid(), 11)",
    "hang": "import ctypes; ctypes.PyDLL(None).sleep(3600)",  # in C, holding Python's lock
    "raise": "raise ValueError('no')",
    "memory": "import numpy; numpy.ones(100_000_000_000, dtype='u1')",
}
EXPECTED = {
    "hang.vrt": "timeout",
    "crash.vrt": "crashed",
    "raise.vrt": "RasterioIOError",
    "memory.vrt": "RasterioIOError",
}


def write_poisonous(path: Path, code: str) -> None:
    """Write a virtual raster whose pixels are computed by Python code."""
    band = f"""<VRTRasterBand dataType="Byte" band="%d" subClass="VRTDerivedRasterBand">
        <PixelFunctionLanguage>Python</PixelFunctionLanguage>
        <PixelFunctionType>poison</PixelFunctionType>
        <PixelFunctionCode><![CDATA[
def poison(*arguments, **named):
    {code}
]]></PixelFunctionCode></VRTRasterBand>"""
    bands = "".join(band % number for number in (1, 2, 3))
    path.write_text(f'<VRTDataset rasterXSize="70" rasterYSize="70">{bands}</VRTDataset>')


@pytest.mark.ray
@pytest.mark.slow
def test_exactly_the_poisonous_scenes_are_quarantined(
    small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_VRT_ENABLE_PYTHON", "YES")
    archive = tmp_path / "in"
    for number in range(8):
        write_scene(archive / f"good{number}.tif", 90, 80, seed=number)
    local = Execution(runner="local")
    run([str(archive)], small_checkpoint, str(tmp_path / "calm"), SETTINGS, local)
    for name, code in CODE.items():
        write_poisonous(archive / f"{name}.vrt", code)

    out = tmp_path / "out"
    execution = Execution(replicas=1, unit_timeout=20)  # distinguishes a crash from a hang
    receipt = run([f"{archive}/*"], small_checkpoint, str(out), SETTINGS, execution)

    assert (receipt.scenes_done, receipt.scenes_quarantined) == (8, 4)
    failures = rows(out, "quarantine").to_pylist()
    assert {row["scene_id"]: row["error"] for row in failures} == EXPECTED
    assert all(str(archive / row["scene_id"]) in row["message"] for row in failures)
    assert differences(tmp_path / "calm", out, "masks", "statistics") == []
    assert stray_files(out) == []
