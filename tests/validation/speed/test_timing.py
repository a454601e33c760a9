"""Every engine appends the likeliest tokens to the same prompts, in turn, in a process that loads nothing else."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from click.testing import CliRunner
from support.execution import ONE_THREAD
from support.models import skip_unless_loaded, write_source
from support.product import RUNTIMES, Decoding, Pace, convert_folder
from support.variations import VARIATIONS
from transformers.utils import logging

from seap_export.model.families import family_of_model_type
from validation.execution import Execution
from validation.runtimes import timing
from validation.runtimes.runner import Runtime
from validation.speed import memory
from validation.speed.engines import _TorchEngine, open_engine
from validation.speed.measure import SpeedCell, measure_speed
from validation.speed.memory import PeakMemory, peak_memory

PROMPTS = [[5, 6, 7], [8, 9, 10]]


@pytest.mark.parametrize("is_clocked", [False, True])
def test_other_runtimes_are_opened_as_they_are_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_clocked: bool
) -> None:
    """One that measures itself takes one row, as far as its context."""
    logits = np.eye(100, dtype=np.float32)
    runner = Mock(spec=["prefill", "step", "close", *(["timed", "context_length"] if is_clocked else [])])
    runner.prefill.side_effect, runner.step.side_effect = lambda ids, *_: logits[ids + 1], lambda ids: logits[ids]
    if is_clocked:
        runner.context_length, runner.timed = 16, lambda prompt, steps: Pace(1.0, (0.5,) * steps)
    server = Mock(return_value=runner)
    monkeypatch.setitem(RUNTIMES, "other", Runtime("nowhere:open"))  # type: ignore[arg-type]
    monkeypatch.setattr("validation.speed.engines.open_runtime", server)
    with open_engine("other", tmp_path, 64, Execution(threads=3)) as engine:
        assert engine.takes(1, 16)
        assert engine.takes(2, 16) == engine.takes(1, 17) == (not is_clocked)
        assert len(engine.pace(PROMPTS[:1], 4).steps_s) == 4
        runner.close.assert_not_called()
    runner.close.assert_called_once()
    server.assert_called_once_with("other", tmp_path, Execution(threads=3), "served")


@pytest.mark.parametrize("variation", ["qwen3_moe-all", "qwen3_next"])
def test_torch_and_onnx_runtime_append_the_same_tokens(
    monkeypatch: pytest.MonkeyPatch, variation: str, tmp_path: Path
) -> None:
    skip_unless_loaded(family_of_model_type(VARIATIONS[variation]["model_type"]))
    appended: dict[str, list[list[int]]] = {"torch": [], "onnxruntime": []}
    torch_run, onnx_step = _TorchEngine._run, Decoding.step

    def run(self: _TorchEngine, input_ids: Any, cache: Any) -> Any:
        assert logging.get_verbosity() == logging.CRITICAL  # a hybrid says which kernels are missing
        computed = torch_run(self, input_ids, cache)
        appended["torch"].append(computed.tolist())
        return computed

    def step(self: Decoding, tokens: Sequence[int]) -> None:
        appended["onnxruntime"].append(list(tokens))
        onnx_step(self, tokens)

    monkeypatch.setattr(_TorchEngine, "_run", run)
    monkeypatch.setattr(Decoding, "step", step)
    hf, onnx = write_source(tmp_path / "hf", variation), tmp_path / "onnx"
    onnx.mkdir()
    convert_folder(hf, onnx)
    for name, folder in (("torch", hf), ("onnxruntime", onnx)):
        with open_engine(name, folder, 64, ONE_THREAD) as engine:
            assert engine.takes(2, 8)
            assert len(engine.pace(PROMPTS, 4).steps_s) == 4
    assert appended["torch"][:-1] == appended["onnxruntime"]
    assert len(appended["onnxruntime"]) == 4


def test_each_token_goes_into_the_next_call_and_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = iter((10.0, 12.0, 13.0, 17.0)), []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    following = lambda token: calls.append(token) or token + 1  # noqa: E731
    assert timing.timed_loop(lambda: 7, following, 2) == Pace(2.0, (1.0, 4.0))
    assert calls == [7, 8]


class Recorder(contextlib.AbstractContextManager["Recorder"]):
    """An engine that notes what it is asked, and when it is closed; `single` takes no batches."""

    def __init__(self, name: str, log: list[tuple[str, str]], prompts: list[Any]) -> None:
        self.name, self.log, self.prompts = name, log, prompts

    def takes(self, rows: int, tokens: int) -> bool:
        return tokens <= 9 and (rows == 1 or self.name != "single")

    def __exit__(self, *_: object) -> None:
        self.log.append((self.name, "closed"))

    def pace(self, prompts: Sequence[Sequence[int]], steps: int) -> Pace:
        self.log.append((self.name, f"{len(prompts)}x{len(prompts[0])} and {steps}"))
        self.prompts.append(prompts)
        return Pace(float(len(self.prompts)), (0.5,) * steps)


def test_engines_are_opened_in_turn_and_run_the_same_prompts() -> None:
    log: list[tuple[str, str]] = []
    prompts: dict[str, list[Any]] = {"one": [], "two": [], "single": []}
    openers = {name: partial(Recorder, name, log, prompt) for name, prompt in prompts.items()}
    cells = [SpeedCell(1, 4), SpeedCell(2, 3), SpeedCell(1, 10)]  # the last is longer than an engine takes
    lines: list[str] = []
    timings = measure_speed(openers, cells, vocab_size=50, runs=2, steps=3, on_progress=lines.append)
    few = [size + what for size in ("1x4", "2x3") for what in (" and 1", " and 3")]  # a warm-up, and what is timed
    turn = [(name, what) for name in prompts for what in (*few[: 2 if name == "single" else 4], "closed")]
    assert log == turn * 2
    assert prompts["one"] == prompts["two"]
    assert all(0 <= token < 50 for rows in prompts["one"] for row in rows for token in row)
    assert lines == [f"run {run} of 2: {name}" for run in (1, 2) for name in prompts]
    for name, by_cell in timings.items():
        sizes = {cell: (len(t.prefills), len(t.steps)) for cell, t in by_cell.items()}
        assert sizes == dict.fromkeys(cells[: 1 if name == "single" else 2], (2, 6))
        assert by_cell[cells[0]].prefills == ([2.0, 4.0] if name == "single" else [2.0, 6.0])  # not the warm-up's


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
