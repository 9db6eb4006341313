"""Virtual rasters whose pixels are Python code that ends the process which reads them, and reads
that let GDAL run it, in the plain loop and on Ray. Processes of a run import this."""

from __future__ import annotations

from pathlib import Path

import rasterio

from pipeline.cluster.stages import ReadStage, Stages, read_with_limits
from pipeline.driver.plain_loop import PlainLoop
from pipeline.stages import Work
from pipeline.unit import ReadUnit, Unit

POISON = {
    "crash": "import os; os.kill(os.getpid(), 11)",
    "hang": "import ctypes; ctypes.PyDLL(None).sleep(3600)",  # in C, holding Python's lock
    "raise": "raise ValueError('no')",
    "memory": "import numpy; [numpy.ones(10**8, dtype='u1') for _ in range(10**6)]",
}
"""What the code does to its process. `memory` takes it bit by bit, until there is none."""
ERRORS = {
    "hang.vrt": "timeout",
    "crash.vrt": "crashed",
    "raise.vrt": "RasterioIOError",
    "memory.vrt": "RasterioIOError",
}
"""What such a scene is quarantined for."""


def write_poisonous(path: Path) -> None:
    """Write a virtual raster with the poison that the file is named after."""
    band = f"""<VRTRasterBand dataType="Byte" band="%d" subClass="VRTDerivedRasterBand">
        <PixelFunctionLanguage>Python</PixelFunctionLanguage>
        <PixelFunctionType>poison</PixelFunctionType>
        <PixelFunctionCode><![CDATA[
def poison(*arguments, **named):
    {POISON[path.stem]}
]]></PixelFunctionCode></VRTRasterBand>"""
    bands = "".join(band % number for number in (1, 2, 3))
    path.write_text(f'<VRTDataset rasterXSize="70" rasterYSize="70">{bands}</VRTDataset>')


class PoisonedWork(Work):
    """Work that runs the Python code in virtual rasters, which GDAL otherwise refuses."""

    def read(self, unit: Unit) -> ReadUnit:
        with rasterio.Env(GDAL_VRT_ENABLE_PYTHON="YES"):
            return super().read(unit)


def _poisoned(work: Work) -> PoisonedWork:
    return PoisonedWork(**vars(work))


class PoisonedLoop(PlainLoop):
    def compute(self, work: Work, unit: Unit) -> int:
        return super().compute(_poisoned(work), unit)


def read_poisoned(work: Work, unit: Unit) -> ReadUnit:
    """In place of `read_with_limits`, when units are isolated."""
    return read_with_limits(_poisoned(work), unit)


class PoisonedReadStage(ReadStage):
    def read(self, unit: Unit) -> ReadUnit:
        return read_poisoned(self._work, unit)


STAGES = Stages(read=PoisonedReadStage)
