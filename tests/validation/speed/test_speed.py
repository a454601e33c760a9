"""Speed-ups and their intervals, the gate, whose times are made up, and engines that are timed in turn."""

from __future__ import annotations

import contextlib
import json
import re
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
from support.product import RUNTIMES, BlockQuantization, Decoding, Pace, Precision, convert_folder
from support.variations import VARIATIONS
from transformers.utils import logging

from seap_export.errors import UsageError
from seap_export.model.families import family_of_model_type, model_spec
from validation.execution import Execution
from validation.runtimes import timing
from validation.runtimes.runner import Runtime
from validation.speed import memory
from validation.speed.engines import _TorchEngine, open_engine
from validation.speed.gate import SpeedLimits, SpeedVerdict, judge_speed
from validation.speed.ideal import ModelWork, model_work
from validation.speed.interval import Interval, median_interval
from validation.speed.measure import SpeedCell, Timing, measure_speed
from validation.speed.memory import PeakMemory, peak_memory
from validation.speed.report import SpeedReport, Speedup, SubjectFigures

CELL = SpeedCell(2, 8)


def timed(
    model: str, engine: str, size: int = 9, prefill: float = 1.0, step: float = 1.0, work: float = 1.0
) -> SubjectFigures:
    timings, works = {CELL: Timing([prefill] * 5, [step] * 5)}, {CELL: ModelWork(work, 2 * work)}
    return SubjectFigures(model, engine, size, 7, timings, works, 5)  # type: ignore[arg-type]


@pytest.fixture
def speeds() -> SpeedReport:
    subjects = [
        timed("dense", "torch", 100, 8.0, 1.0, 40.0),
        timed("dense", "onnxruntime", 90, 4.0, 0.5, 40.0),
        timed("a-0.5", "torch", 60, 4.0, 1.25, 20.0),
        timed("a-0.5", "onnxruntime", 90, 2.5, 0.25, 20.0),
    ]
    return SpeedReport(subjects, [CELL], {"threads": 2})


def test_speedups_and_what_is_no_better(speeds: SpeedReport) -> None:
    on_torch, on_onnx = speeds.subjects[2:]
    assert (speeds.prefill(on_torch, CELL).measured, speeds.decode(on_torch, CELL).measured) == (2.0, 0.8)
    decode = speeds.decode(on_onnx, CELL)
    assert (decode.measured, decode.ideal, decode.share) == (2.0, 2.0, 1.0)
    assert speeds.prefill(on_onnx, CELL).share == pytest.approx(0.8)
    assert speeds.complaints == [
        "a-0.5 on torch: decode is slower than the dense model (batch 2, 8 tokens: 0.80x)",
        "a-0.5 on onnxruntime is no smaller than the dense model",
    ]
    # with an interval that reaches to 1, or without one, the table says that there is no speed-up
    intervals = (Interval(0.8, 0.99), Interval(0.8, 1.0), None)
    assert [Speedup(0.9, 1.2, interval).is_slower for interval in intervals] == [True, False, False]


def test_a_speedup_has_an_interval_of_paired_runs_that_holds_it() -> None:
    dense, variant = timed("dense", "torch"), timed("a-0.5", "torch")
    # two steps a run: medians of 4, 6, 4, 4, 8 and of 2, 2, 4, 2, 2
    dense.timings[CELL].prefills[:] = [2.0, 2.0, 2.0, 4.0, 2.0]
    dense.timings[CELL].steps[:] = [3.0, 5.0, 6.0, 6.0, 4.0, 4.0, 4.0, 4.0, 8.0, 8.0]
    variant.timings[CELL].prefills[:] = [1.0, 1.0, 1.0, 1.0, 2.0]
    variant.timings[CELL].steps[:] = [2.0, 2.0, 2.0, 2.0, 4.0, 4.0, 2.0, 2.0, 2.0, 2.0]
    cell = SpeedReport([dense, variant], [CELL], {}).to_json()["subjects"][1]["cells"][0]
    assert (cell["decode_speedup_low"], cell["decode_speedup"], cell["decode_speedup_high"]) == (1.0, 2.25, 4.0)
    assert (cell["prefill_speedup_low"], cell["prefill_speedup"], cell["prefill_speedup_high"]) == (1.0, 2.0, 4.0)


def test_the_interval_reaches_to_the_speedup_of_all_steps_together() -> None:
    """Each run has the same median in both models, but the other steps are faster in one and slower in the other."""
    models = [timed(name, "torch") for name in ("dense", "a-0.5")]
    for model, other in zip(models, (0.1, 99.0), strict=True):
        model.timings[CELL].prefills[:] = [1.0] * 5
        model.timings[CELL].steps[:] = [step for middle in range(1, 6) for step in (middle, other, middle)]
    speedup = SpeedReport(models, [CELL], {}).decode(models[1], CELL)
    assert (speedup.measured, speedup.interval) == (0.5, Interval(0.5, 1.0))


@pytest.mark.parametrize(("count", "ends"), [(5, (1, 5)), (8, (1, 8)), (9, (2, 8)), (15, (4, 12)), (50, (18, 33))])
def test_which_runs_it_ends_at(count: int, ends: tuple[int, int]) -> None:
    """As in tables of the sign test, for a coverage of 15/16."""
    runs = np.random.default_rng(0).permutation(np.arange(1.0, count + 1)).tolist()
    assert median_interval(runs) == Interval(*ends)


CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 96,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip
LINEAR = 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 96)
HEAD = 100 * 64
CACHED = 2 * 2 * 2 * 16  # layers, keys and values, KV heads, width


def test_work() -> None:
    for last_logits, computed in ((True, 1), (False, 10)):
        work = model_work(model_spec(CONFIG), Precision(), 3, 10, last_logits=last_logits)
        assert work.decode_bytes == 4 * (LINEAR + HEAD + 3 * 10 * CACHED)
        attention = sum(2 * 4 * 16 * seen for _ in range(2) for seen in range(1, 11))
        assert work.prefill_macs == 3 * (10 * LINEAR + computed * HEAD + attention)
    fewer = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
    pruned = {**CONFIG, "model_type": "seap_llama", "per_layer_config": {"1": fewer}}
    dense, less = (model_work(model_spec(config), Precision(), 1, 8, last_logits=True) for config in (CONFIG, pruned))
    removed = 64 * 32 + 2 * 64 * 16 + 32 * 64 + 3 * 64 * 64
    assert dense.decode_bytes - less.decode_bytes == 4 * (removed + 8 * 2 * 16)
    assert dense.prefill_macs - less.prefill_macs == 8 * removed + 2 * 2 * 16 * 36


def test_bytes_of_quantised_weights() -> None:
    with_points = Precision("fp16", BlockQuantization(8, 64, symmetric=False, embeddings=False))
    assert with_points.weight_bytes == with_points.read_bytes == 1 + (2 + 1) / 64
    four = Precision("fp32", BlockQuantization(4))
    assert (four.weight_bytes, Precision("fp32", BlockQuantization(3)).read_bytes) == (0.5 + 2 / 32, 0.5 + 4 / 32)
    whole, part = (model_work(model_spec(CONFIG), one, 1, 1, last_logits=True) for one in (four, with_points))
    assert whole.decode_bytes == (LINEAR + HEAD) * (0.5 + 4 / 32) + 4 * CACHED
    assert part.decode_bytes == LINEAR * with_points.weight_bytes + 2 * (HEAD + CACHED)


DEEP = SpeedCell(1, 512)
STEADY = (1.0, 1.01, 0.99, 1.0, 1.005)


def subject(
    model: str, runs: Sequence[float], *, size: int = 100, engine: str = "onnxruntime", cells: Sequence[Any] = (CELL,)
) -> SubjectFigures:
    """A model whose runs have steps around these medians, and prefills ten times as long."""
    steps = [run * factor for run in runs for factor in (0.98, 1.0, 1.5)]
    timings = {cell: Timing([10 * run for run in runs], list(steps)) for cell in cells}
    return SubjectFigures(model, engine, size, 1, timings, dict.fromkeys(cells, ModelWork(1.0, 1.0)))  # type: ignore[arg-type]


def report(*variants: SubjectFigures, dense: Sequence[float] = STEADY) -> SpeedReport:
    cells = tuple(variants[0].timings) if variants else (CELL,)
    return SpeedReport([subject("dense", dense, cells=cells), *variants], cells, {})


def faster(factor: float, dense: Sequence[float] = STEADY, noise: float = 0.02) -> list[float]:
    """The runs of a model that is `factor` times as fast, give or take `noise`."""
    return [time / factor * (1 + noise * sign) for time, sign in zip(dense, (1, -1, 0, 0.5, -0.5), strict=True)]


def decode(variants: SpeedReport, limit: float) -> SpeedVerdict:
    (verdict,) = judge_speed(variants, SpeedLimits(min_decode_speedup=limit))
    return verdict


def test_a_speedup_is_judged_where_its_interval_is_on_one_side() -> None:
    for limit, verdict in ((1.5, "passed"), (1.6, "too noisy"), (1.7, "failed")):
        judged = decode(report(subject("a-0.5", faster(1.6))), limit)
        assert (judged.variant, judged.figure, judged.cell) == ("a-0.5", "decode_speedup", CELL)
        assert (judged.limit, judged.runs, judged.verdict) == (limit, 5, verdict)
        assert (judged.low, judged.high) == (pytest.approx(1.6 / 1.02), pytest.approx(1.6 / 0.98))
        assert judged.low < judged.measured < judged.high
    variants = report(subject("a-0.5", [0.5] * 5), dense=[1.0, 1.0, 1.0, 1.0, 1.125])
    at_an_end = [decode(variants, limit) for limit in (2.0, 2.25, 2.2501)]
    assert {(judged.low, judged.high) for judged in at_an_end} == {(2.0, 2.25)}
    assert [judged.verdict for judged in at_an_end] == ["passed", "too noisy", "failed"]


@pytest.mark.parametrize("limit", [1.0, 4.0])
def test_a_machine_that_is_too_busy_judges_nothing(limit: float) -> None:
    """Although all paired speed-ups are 2."""
    busy = (1.0, 1.3, 1.0, 1.1, 1.0)
    verdict = decode(report(subject("a-0.5", faster(2.0, busy, 0.0)), dense=busy), limit)
    assert (verdict.low, verdict.high) == (pytest.approx(2.0), pytest.approx(2.0))
    assert verdict.spread == pytest.approx(0.3 / 1.15)
    assert verdict.verdict == "too noisy"
    assert re.search(r"too noisy .* 2\.00x .* 26%, more than 25%; .*--runs", verdict.result)


def test_one_verdict_for_each_variant_limit_and_cell_of_onnx_runtime() -> None:
    cells = (CELL, DEEP)
    names = [(name, engine) for name in ("a-0.5", "b-0.5") for engine in ("torch", "onnxruntime")]
    dense = subject("dense", STEADY, engine="torch", cells=cells)
    variants = report(*(subject(name, faster(2.0), engine=engine, cells=cells) for name, engine in names))
    found = SpeedReport([dense, *variants.subjects], cells, {})
    verdicts = judge_speed(found, SpeedLimits(1.5, 2.5, 0.5))
    each = [
        ("bytes_ratio", None, "failed"),
        *(one for cell in cells for one in (("decode_speedup", cell, "passed"), ("prefill_speedup", cell, "failed"))),
    ]
    assert [(verdict.variant, verdict.figure, verdict.cell, verdict.verdict) for verdict in verdicts] == [
        (name, *rest) for name in ("a-0.5", "b-0.5") for rest in each
    ]
    smaller = report(subject("a-0.5", [1.0, 9.0], size=60), dense=[1.0, 9.0])  # bytes have no noise
    for limit, verdict in ((0.6, "passed"), (0.59, "failed")):
        (judged,) = judge_speed(smaller, SpeedLimits(max_bytes_ratio=limit))
        assert (judged.measured, judged.low, judged.high, judged.verdict) == (0.6, 0.6, 0.6, verdict)


def test_what_cannot_be_judged_is_refused() -> None:
    for others in ((), (subject("a-0.5", STEADY, engine="torch"),)):
        with pytest.raises(UsageError, match="no variant was timed on onnxruntime"):
            judge_speed(report(*others), SpeedLimits(max_bytes_ratio=1.0))
    for limit in (0.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="max_bytes_ratio must be a number above 0"):
            SpeedLimits(max_bytes_ratio=limit)


PROMPTS = [[5, 6, 7], [8, 9, 10]]


@pytest.mark.parametrize("is_clocked", [False, True])
def test_other_runtimes_are_opened_as_they_are_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_clocked: bool
) -> None:
    """One that measures itself takes one row, as far as its context."""
    logits = np.eye(100, dtype=np.float32)
    runner = Mock(spec=["prefill", "step", "close", "batches", *(["timed", "context_length"] if is_clocked else [])])
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
