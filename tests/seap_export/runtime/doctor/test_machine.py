"""What the system says of itself, and a container of what it may use."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

import pytest

from seap_export.runtime.doctor.machine import read_machine
from seap_export.runtime.session import available_threads

GB = 1_000_000 * 1024


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with 8 million KiB of memory, 5 of them free."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags: a\n", "utf-8")
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal:        8000000 kB\nMemFree:          100 kB\nMemAvailable:    5000000 kB\n", "utf-8"
    )
    return tmp_path


def limit(root: Path, most: str, used: int) -> None:
    (root / "sys/fs/cgroup/memory.max").write_text(f"{most}\n", "utf-8")
    (root / "sys/fs/cgroup/memory.current").write_text(f"{used}\n", "utf-8")


def test_processor_and_memory(root: Path) -> None:
    machine = read_machine(root)
    assert machine.processor == "Some CPU @ 2 GHz"
    assert (machine.memory_bytes, machine.free_memory_bytes) == (8 * GB, 5 * GB)


@pytest.mark.parametrize(
    ("most", "used", "expected"),
    [
        (str(4 * GB), GB, (4 * GB, 3 * GB)),
        (str(7 * GB), GB, (7 * GB, 5 * GB)),
        (str(4 * GB), 9 * GB, (4 * GB, 0)),
        ("max", GB, (8 * GB, 5 * GB)),
        (str(1 << 60), GB, (8 * GB, 5 * GB)),
    ],
)
def test_a_container_may_have_less(root: Path, most: str, used: int, expected: tuple[int, int]) -> None:
    limit(root, most, used)
    machine = read_machine(root)
    assert (machine.memory_bytes, machine.free_memory_bytes) == expected


def test_cores_python_and_disk() -> None:
    machine = read_machine()
    assert (machine.cores, machine.all_cores) == (available_threads(), os.cpu_count())
    assert machine.python == platform.python_version()
    assert (machine.temp_folder, machine.free_disk_bytes is not None) == (tempfile.gettempdir(), True)
