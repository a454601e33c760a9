from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seap_export.common import memory
from seap_export.common.memory import _linux_peak, _unix_peak, _windows_peak, available_memory, peak_memory


def test_it_grows_with_what_is_used() -> None:
    before = peak_memory() or 0
    ballast = bytearray(b"x") * (before + 50_000_000)
    assert 0 < before < len(ballast) < (peak_memory() or 0)


def test_other_systems_are_asked_in_their_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def kernel(answer: int) -> Any:
        def fill(process: int, counters: Any, size: int) -> int:
            assert (process, size) == (7, 8 + 8 * ctypes.sizeof(ctypes.c_size_t))
            counters._obj.peak_working_set_size = 123
            return answer

        return SimpleNamespace(GetCurrentProcess=lambda: 7, K32GetProcessMemoryInfo=fill)

    assert _windows_peak(lambda name: {"kernel32": kernel(1)}[name]) == 123
    assert _windows_peak(lambda _: kernel(0)) is _windows_peak(lambda _: SimpleNamespace()) is None
    assert _linux_peak(tmp_path / "status") is None
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t     12 kB\n")
    assert _linux_peak(tmp_path / "status") == 12 * 1024
    assert (_unix_peak() or 0) > 1_000_000
    monkeypatch.setitem(sys.modules, "resource", None)
    assert _unix_peak() is None


def test_a_container_could_take_back_what_it_keeps_of_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {"limit": "1000\n", "used": "900\n", "counters": "anon 600\ninactive_file 250\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_GROUPS", (tuple(str(tmp_path / name) for name in files),))
    assert available_memory() == 350


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps what is freed in this way")
def test_what_is_freed_goes_back_to_the_system() -> None:
    program = (
        "import gc, psutil\n"
        "from seap_export.common.memory import give_back_memory\n"
        "used = lambda: psutil.Process().memory_info().rss\n"
        "kept = [bytes(60_000 + (i % 2) * 4_000) for i in range(2000)]\n"
        "last = kept[-1]\n"  # the end of the heap stays in use, so that the rest is not returned unasked
        "del kept\n"
        "gc.collect()\n"
        "before = used()\n"
        "give_back_memory()\n"
        "print(before - used())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50_000_000
