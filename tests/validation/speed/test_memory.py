"""Memory is that of a process which loads nothing that the engine does not need."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from support.execution import ONE_THREAD
from support.product import convert_folder

from validation.speed import memory
from validation.speed.measure import SpeedCell
from validation.speed.memory import PeakMemory, peak_memory


def test_the_process_of_onnxruntime_knows_no_torch() -> None:
    code = "import sys, validation.speed.memory as m, validation.speed.engines; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_longer_prompt_takes_more(micro_hf: Callable[[str], Path], tmp_path: Path) -> None:
    convert_folder(micro_hf("Llama"), tmp_path)
    small, large = (peak_memory("onnxruntime", tmp_path, 64, ONE_THREAD, SpeedCell(batch, 32)) for batch in (1, 512))
    assert 20e6 < small.host < large.host
    assert (small.gpu, large.gpu) == (None, None)


def printed(monkeypatch: pytest.MonkeyPatch, provider: str = "cpu", **engine: Callable[..., object]) -> PeakMemory:
    """What the process prints whose engine runs this."""
    opened = contextlib.closing(SimpleNamespace(**{"close": bool, **engine}))
    monkeypatch.setattr(memory, "open_engine", lambda *_: opened)
    words = ["onnxruntime", "folder", "--context-length", "64", "--provider", provider]
    return PeakMemory(**json.loads(CliRunner().invoke(memory._main, words).output))


def test_a_process_that_the_runtime_starts_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    code = [sys.executable, "-c", "ballast = bytearray(b'x') * 400_000_000"]
    monkeypatch.setattr(memory, "process_peak", lambda: 1_000_000)
    assert (printed(monkeypatch, pace=lambda *_: subprocess.run(code, check=True)).host or 0) > 400e6


@pytest.mark.parametrize(
    ("provider", "free", "gpu"), [("cuda", [900, 300], 600), ("cuda", [None, None], None), ("cpu", [900, 300], None)]
)
def test_the_memory_of_the_gpu_is_what_its_free_memory_shrinks_by(
    monkeypatch: pytest.MonkeyPatch, provider: str, free: list[int | None], gpu: int | None
) -> None:
    """What is measured last is measured after the run, while the model is open."""
    runs: list[object] = []

    def taken(asked: str) -> int | None:
        assert asked == "cpu" or len(free) == (1 if runs else 2)
        return free.pop(0) if asked == "cuda" else None

    monkeypatch.setattr(memory, "free_device_memory", taken)
    assert printed(monkeypatch, provider, pace=lambda *given: runs.append(given), close=runs.clear).gpu == gpu
