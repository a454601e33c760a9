"""Describes the machine: its system, processor, cores, memory and disk."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seap_export.common.memory import available_memory
from seap_export.runtime.session import available_threads


@dataclass(frozen=True)
class HostMachine:
    """The machine this process runs on; sizes are in bytes, None if they are not known."""

    system: str
    processor: str
    cores: int
    all_cores: int
    free_memory_bytes: int | None
    python: str
    temp_folder: str
    free_disk_bytes: int | None


def read_machine() -> HostMachine:
    memory = disk = None
    with suppress(ImportError):  # psutil is not needed to run a variant
        memory = available_memory()
    try:
        folder = tempfile.gettempdir()
        disk = shutil.disk_usage(folder).free
    except OSError as error:  # there is no writable folder, or it no longer exists
        folder = f"none ({error.strerror or error})"
    return HostMachine(
        platform.platform(), processor(), available_threads(), os.cpu_count() or 1, memory, platform.python_version(),
        folder, disk,
    )  # fmt: skip


def processor() -> str:
    """The processor's name if the system reports it."""
    text = ""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()
