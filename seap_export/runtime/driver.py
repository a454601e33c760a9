"""The NVIDIA driver and its GPUs, queried through the driver's library."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: Comes with the driver; all other libraries can be installed with pip.
DRIVER_LIBRARY = "libcuda.so.1"
Load = Callable[[str], Any]
_NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, and its memory in bytes."""

    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver's answer: the CUDA version that it runs, and its GPUs.

    Attributes:
        cuda_version: The newest CUDA version that it runs, such as "13.0"; None without a driver.
        reason: Why there are none; "" if there are some.
    """

    cuda_version: str | None
    gpus: tuple[Gpu, ...] = ()
    reason: str = ""


class _Refused(Exception):
    """A call to the driver returned an error."""


def read_driver(load: Load = ctypes.CDLL) -> Driver:
    """Queries the NVIDIA driver, if there is one."""
    try:
        library = _load(load)
    except OSError as error:
        return Driver(None, reason=f"there is no NVIDIA driver ({' '.join(str(error).split())})")
    version = None
    try:
        version = _version(library)
        _call(library, "cuInit", 0)
        gpus = _gpus(library)
    except (_Refused, AttributeError) as error:
        return Driver(version, reason=f"the NVIDIA driver finds no usable GPU ({error})")
    return Driver(version, gpus, "" if gpus else "the NVIDIA driver finds no GPU")


def gpu_name(load: Load = ctypes.CDLL) -> str | None:
    """The name of the GPU that sessions run on, which is the first; None: there is none."""
    gpus = read_driver(load).gpus
    return gpus[0].name if gpus else None


def free_gpu_memory(load: Load = ctypes.CDLL) -> int | None:
    """Free bytes of the first GPU, whoever took the others; None: the driver does not tell.

    The first call of a process makes CUDA's context, whose memory is then taken already.
    """
    free, total, device, context = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_int(), ctypes.c_void_p()
    try:
        library = _load(load)
        _call(library, "cuInit", 0)
        _call(library, "cuDeviceGet", ctypes.byref(device), 0)
        _call(library, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        _call(library, "cuCtxSetCurrent", context)
        _call(library, "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    except (OSError, _Refused, AttributeError):
        return None
    return free.value


def _load(load: Load) -> Any:
    return load("nvcuda.dll" if sys.platform == "win32" else DRIVER_LIBRARY)


def _version(library: Any) -> str:
    number = ctypes.c_int()
    _call(library, "cuDriverGetVersion", ctypes.byref(number))
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _gpus(library: Any) -> tuple[Gpu, ...]:
    count = ctypes.c_int()
    _call(library, "cuDeviceGetCount", ctypes.byref(count))
    return tuple(_gpu(library, index) for index in range(count.value))


def _gpu(library: Any, index: int) -> Gpu:
    device, name, size = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    _call(library, "cuDeviceGet", ctypes.byref(device), index)
    _call(library, "cuDeviceGetName", name, _NAME_BYTES, device)
    _call(library, "cuDeviceTotalMem_v2", ctypes.byref(size), device)
    return Gpu(name.value.decode("utf-8", "replace"), size.value)


def _call(library: Any, function: str, *arguments: Any) -> None:
    code = getattr(library, function)(*arguments)
    if code:
        raise _Refused(f"{function} returned error {code}")
