"""Compiles Triton's own C file, which it would compile on the first machine with a GPU, into
TRITON_CACHE_DIR: the image then needs no compiler. Run while the image is built.

The key is Triton's: of the source and the platform, not of the driver. The driver's library is
stood in for by an empty one of its name, for what is linked against it looks it up when loaded.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import suppress


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/libcuda.so.1"
        named = ["-Wl,-soname,libcuda.so.1", "-o", library]
        subprocess.run(["gcc", "-shared", *named, "-x", "c", "/dev/null"], check=True)
        os.environ["TRITON_LIBCUDA_PATH"] = folder
        from triton.backends.nvidia.driver import CudaUtils  # noqa: PLC0415  reads the variable

        with suppress(ImportError):  # compiled, kept, and loaded in vain: no driver here
            CudaUtils()
    kept = [name for _, _, files in os.walk(os.environ["TRITON_CACHE_DIR"]) for name in files]
    if not any(name.startswith("cuda_utils") and name.endswith(".so") for name in kept):
        raise SystemExit(f"Triton kept no cuda_utils in TRITON_CACHE_DIR, only {kept}")


if __name__ == "__main__":
    main()
