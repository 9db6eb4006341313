"""Compiles Triton's own C file, which it would compile on the first machine with a GPU, into
TRITON_CACHE_DIR: the image then needs no compiler. Run while the image is built.

The key is Triton's: of the source and of the platform as Python sees it (which differs where the
program `file` is installed), not of the driver. The driver's library is stood in for by one that
has its name and the names of its functions; what is linked against it finds the true ones when it
is loaded.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import tempfile
from pathlib import Path


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_LIBCUDA_PATH"] = folder
        from triton.backends.nvidia import driver  # noqa: PLC0415  reads the variable

        # Not an empty library: the linker leaves out what it needs nothing of.
        source = Path(driver.__file__).with_name("driver.c").read_text()
        names = sorted(set(re.findall(r"\bcu[A-Z]\w*(?=\()", source)))
        library = f"{folder}/libcuda.so.1"
        command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library]
        functions = "".join(f"void {name}(void) {{}}\n" for name in names)
        subprocess.run([*command, "-x", "c", "-"], input=functions, text=True, check=True)
        # By its name alone, so that the module loads only if it asks for it.
        ctypes.CDLL(library, ctypes.RTLD_LOCAL)
        driver.CudaUtils()


if __name__ == "__main__":
    main()
