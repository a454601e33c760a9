"""Builds the stand-ins, once for each state of their sources."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent / "libraries"
CACHE = Path(__file__).parents[2] / ".cache"
#: Libraries that ONNX Runtime's CUDA provider loads, by their names at run time, and what each is built from.
LIBRARIES = {
    "libcudart.so.13": ("log.c", "devices.c", "memory.c", "streams.c", "launches.c"),
    "libcublas.so.13": ("cublas.c",),
    "libcublasLt.so.13": ("cublasLt.c",),
    "libcudnn.so.9": ("cudnn.c",),
    "libcufft.so.12": ("unused.c",),
    "libcurand.so.10": ("unused.c",),
    "libcuda.so.1": ("cuda.c",),
}
#: What a machine lacks where `built` returns None.
REMEDY = (
    "it takes Linux on x86-64 with onnxruntime-gpu, torch without CUDA, a C compiler and CUDA 13's headers: "
    "pip install 'nvidia-cuda-runtime==13.*' 'nvidia-cuda-crt==13.*', or set CUDA_HOME"
)


@cache
def built() -> Path | None:
    """The folder of the built libraries, or None where they can't be built or there is no provider to run on them.

    Raises:
        subprocess.CalledProcessError: The compiler refuses them.
    """
    compiler, include = shutil.which("cc"), _include()
    if compiler is None or include is None or (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return None
    # torch that is built for CUDA asks its libraries, which come with it, for more than the stand-ins have.
    if not _has("onnxruntime", "capi/libonnxruntime_providers_cuda.so") or _has("torch", "lib/libtorch_cuda.so"):
        return None
    flags = ["-std=gnu17", "-O1", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-shared", "-fPIC"]
    flags.append(f"-I{include}")
    state = hashlib.sha256(repr((LIBRARIES, flags, platform.platform())).encode())
    for path in [*sorted(SOURCES.iterdir()), Path(__file__)]:
        state.update(path.read_bytes())
    folder = CACHE / f"fake-cuda-{state.hexdigest()[:16]}"
    if not folder.is_dir():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            made = Path(temporary) / "libraries"
            made.mkdir()
            for name, sources in LIBRARIES.items():
                _link([compiler, *flags], name, sources, made)
            # Another process may be faster: then its folder is there, and this one is not needed.
            with contextlib.suppress(OSError):
                made.rename(folder)
    return folder


def _link(compiler: list[str], name: str, sources: tuple[str, ...], folder: Path) -> None:
    # The provider asks for functions of a version that has the library's name.
    versions = folder / f"{name}.versions"
    versions.write_text(f"{name} {{ *; }};\n")
    command = [*compiler, f"-Wl,-soname,{name}", f"-Wl,--version-script={versions}", "-o", str(folder / name)]
    command += [str(SOURCES / source) for source in sources]
    if name != "libcudart.so.13":
        command += [str(folder / "libcudart.so.13")]
    subprocess.run(command, check=True)
    versions.unlink()


def _include() -> Path | None:
    """The headers of CUDA 13: of the wheels, or of a toolkit."""
    spec = importlib.util.find_spec("nvidia")
    wheels = [Path(path) / "cu13/include" for path in (spec.submodule_search_locations or ())] if spec else []
    toolkits = [Path(home) / "include" for home in [os.environ.get("CUDA_HOME"), "/usr/local/cuda"] if home]
    toolkits += sorted(Path("/usr/local").glob("cuda-13*/include"), reverse=True)
    return next(filter(_is_cuda_13, wheels + toolkits), None)


def _is_cuda_13(include: Path) -> bool:
    header = include / "cuda_runtime_api.h"
    if not header.is_file() or not (include / "crt/host_defines.h").is_file():
        return False
    return re.search(r"^#define CUDART_VERSION\s+13\d{3}$", header.read_text(), re.MULTILINE) is not None


def _has(package: str, file: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and any((Path(path) / file).is_file() for path in spec.submodule_search_locations or ())
