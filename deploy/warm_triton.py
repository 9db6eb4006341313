"""Compiles Triton's own C file while the image is built, so that the image needs no compiler.

Otherwise Triton compiles it on the first machine with a GPU. The result goes to TRITON_CACHE_DIR.
Its key is Triton's: the source and the platform as Python sees it (which differs if the program
`file` is installed), not the driver. In place of the driver's library stands one with the same name
and the same function names; what is linked against it finds the real ones when it is loaded.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import tempfile
from pathlib import Path


def main() -> None:
    """Compile the file into TRITON_CACHE_DIR."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_LIBCUDA_PATH"] = folder
        from triton.backends.nvidia import driver  # noqa: PLC0415  reads the variable

        # Not an empty library: the linker drops one that it needs nothing from.
        source = Path(driver.__file__).with_name("driver.c").read_text()
        names = sorted(set(re.findall(r"\bcu[A-Z]\w*(?=\()", source)))
        library = f"{folder}/libcuda.so.1"
        command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library]
        functions = "".join(f"void {name}(void) {{}}\n" for name in names)
        subprocess.run([*command, "-x", "c", "-"], input=functions, text=True, check=True)
        # By its name alone, so that the module loads only if it asks for that name.
        ctypes.CDLL(library, ctypes.RTLD_LOCAL)
        driver.CudaUtils()


if __name__ == "__main__":
    main()
