"""Describes the machine: its system, processor, cores, memory and disk."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from seap_export.runtime.session import available_threads

_KIB = 1024


@dataclass(frozen=True)
class HostMachine:
    """The machine this process runs on; sizes are in bytes, None if the system does not report them."""

    system: str
    processor: str
    cores: int
    all_cores: int
    memory_bytes: int | None
    free_memory_bytes: int | None
    python: str
    temp_folder: str
    free_disk_bytes: int | None


def read_machine(root: Path = Path("/")) -> HostMachine:
    memory, free = _memory(root)
    folder, disk = _temporary()
    return HostMachine(
        system=platform.platform(),
        processor=processor(root),
        cores=available_threads(),
        all_cores=os.cpu_count() or 1,
        memory_bytes=memory,
        free_memory_bytes=free,
        python=platform.python_version(),
        temp_folder=folder,
        free_disk_bytes=disk,
    )


def processor(root: Path = Path("/")) -> str:
    """The processor's name if the system reports it; `root` is the folder that contains proc."""
    match = re.search(r"^model name\s*:\s*(.+)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def _memory(root: Path) -> tuple[int | None, int | None]:
    values = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE))
    total, free = (int(values[name]) * _KIB if name in values else None for name in ("MemTotal", "MemAvailable"))
    limit, used = (_text(root / "sys/fs/cgroup" / name).strip() for name in ("memory.max", "memory.current"))
    if total is None or free is None or not (limit.isdecimal() and used.isdecimal()) or int(limit) >= total:
        return total, free
    return int(limit), min(free, max(int(limit) - int(used), 0))


def _temporary() -> tuple[str, int | None]:
    try:
        folder = tempfile.gettempdir()
        return folder, shutil.disk_usage(folder).free
    except OSError as error:  # there is no writable folder, or it no longer exists
        return f"none ({error.strerror or error})", None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
