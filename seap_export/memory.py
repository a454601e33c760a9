"""The memory that this process has used, by the operating system's own accounting.

It imports nothing of the package, so that measuring adds nothing to what is measured.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["peak_memory", "reset_peak_memory"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory() -> int | None:
    """Peak resident memory of this process since it started, or since the reset, in bytes; None if it is not known."""
    if sys.platform == "win32":
        return _windows_peak(ctypes.WinDLL)
    return _linux_peak(_STATUS) or _unix_peak()


def reset_peak_memory() -> None:
    """Starts a new peak where the system can; elsewhere `peak_memory` stays that of the whole process."""
    with suppress(OSError):
        _CLEAR.write_text("5", "utf-8")


def _linux_peak(status: Path) -> int | None:
    """VmHWM; Linux's ru_maxrss counts the process that started this one, too."""
    try:
        lines = status.read_text("utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def _unix_peak() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)  # macOS counts bytes, others KiB


class _Counters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of the Windows API."""

    _fields_ = (
        ("cb", ctypes.c_uint32),
        ("page_fault_count", ctypes.c_uint32),
        ("peak_working_set_size", ctypes.c_size_t),
        ("rest", ctypes.c_size_t * 7),
    )


def _windows_peak(load: Callable[[str], Any]) -> int | None:
    """PeakWorkingSetSize of `GetProcessMemoryInfo`."""
    try:
        kernel = load("kernel32")
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        kernel.K32GetProcessMemoryInfo.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Counters), ctypes.c_uint32]
        counters = _Counters(cb=ctypes.sizeof(_Counters))
        known = kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb)
    except (OSError, AttributeError):
        return None
    return int(counters.peak_working_set_size) if known else None
