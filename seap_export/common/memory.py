"""The memory that this process has used and may still take, by the operating system's own accounting.

It imports nothing of the package, so that measuring adds nothing to what is measured.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
#: The limit of a container (cgroup v2, then v1), what it uses, and its counters.
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def available_memory() -> int:
    """Bytes that can be taken now without swapping, within the limit of a container; no limit where none is known."""
    import psutil

    try:
        free = int(psutil.virtual_memory().available)
    except OSError:  # a sandbox may hide /proc
        free = 2**62
    return min([free, *(left for group in _GROUPS if (left := _left_in(*map(Path, group))) is not None)])


def _left_in(limit: Path, used: Path, counters: Path) -> int | None:
    """Bytes that a container may still take; pages of files that nobody uses now are free. None: it has no limit."""
    try:
        most, taken = int(limit.read_text()), int(used.read_text())  # "max" is no limit
        counts = dict(line.split() for line in counters.read_text().splitlines())
    except (OSError, ValueError):
        return None
    return max(0, most - taken + int(counts.get("inactive_file", 0)))


def peak_memory() -> int | None:
    """Peak resident memory of this process since it started, or since the reset, in bytes; None if it is not known."""
    if sys.platform == "win32":
        return _windows_peak(ctypes.WinDLL)
    return _linux_peak(_STATUS) or _unix_peak()


def give_back_memory() -> None:
    """Returns what has been freed to the system, which glibc may keep for this process otherwise."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # other C libraries have no such function
            ctypes.CDLL(None).malloc_trim(0)


def children_peak() -> int | None:
    """Peak resident memory of the largest process that this one started and that has ended; None if it is not known.

    On Linux it is at least what this process had taken when it started that one.
    """
    return _unix_peak("RUSAGE_CHILDREN")


def reset_peak_memory() -> None:
    """Starts a new peak where the system can; elsewhere `peak_memory` stays that of the whole process.

    Freed memory that glibc has kept for later goes back to the system first, and does not count any more.
    """
    with suppress(OSError, AttributeError, TypeError):  # other C libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        _CLEAR.write_text("5", "utf-8")


def _linux_peak(status: Path) -> int | None:
    """VmHWM; Linux's ru_maxrss counts the process that started this one, too."""
    try:
        lines = status.read_text("utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def _unix_peak(who: str = "RUSAGE_SELF") -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(getattr(resource, who)).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)  # macOS counts bytes, others KiB


class _Counters(ctypes.Structure):
    """The Windows API's structure PROCESS_MEMORY_COUNTERS."""

    _fields_ = (
        ("cb", ctypes.c_uint32),
        ("page_fault_count", ctypes.c_uint32),
        ("peak_working_set_size", ctypes.c_size_t),
        ("rest", ctypes.c_size_t * 7),
    )


def _windows_peak(load: Callable[[str], Any]) -> int | None:
    try:
        kernel = load("kernel32")
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        kernel.K32GetProcessMemoryInfo.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Counters), ctypes.c_uint32]
        counters = _Counters(cb=ctypes.sizeof(_Counters))
        succeeded = kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb)
    except (OSError, AttributeError):
        return None
    return int(counters.peak_working_set_size) if succeeded else None
