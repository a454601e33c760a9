"""Speed-ups and their intervals, and the gate, which passes and fails what the runs support; all times are made up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from support.product import BlockQuantization, Precision

from seap_export.errors import UsageError
from seap_export.model.families import model_spec
from validation.speed.gate import SpeedLimits, SpeedVerdict, judge_speed
from validation.speed.ideal import ModelWork, model_work
from validation.speed.interval import Interval, median_interval
from validation.speed.measure import SpeedCell, Timing
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
    report = SpeedReport([dense, variant], [CELL], {})
    assert report.decode(variant, CELL).interval == Interval(1.0, 4.0)
    assert report.prefill(variant, CELL).interval == Interval(1.0, 4.0)
    cell = report.to_json()["subjects"][1]["cells"][0]
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
    """Of a dense model, and what a pruned one has less."""
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


def test_runs_are_paired_so_that_what_slows_both_models_cancels() -> None:
    drifting = (1.0, 1.05, 1.1, 1.15, 1.2)
    verdict = decode(report(subject("a-0.5", faster(1.5, drifting, 0.0)), dense=drifting), 1.45)
    assert (verdict.low, verdict.high, verdict.verdict) == (pytest.approx(1.5), pytest.approx(1.5), "passed")
    shuffled = decode(report(subject("a-0.5", faster(1.5, drifting[::-1], 0.0)), dense=drifting), 1.45)
    assert shuffled.verdict == "too noisy"


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


def test_bytes_have_no_noise() -> None:
    variants = report(subject("a-0.5", [1.0, 9.0], size=60), dense=[1.0, 9.0])
    for limit, verdict in ((0.6, "passed"), (0.59, "failed")):
        (judged,) = judge_speed(variants, SpeedLimits(max_bytes_ratio=limit))
        assert (judged.measured, judged.low, judged.high, judged.verdict) == (0.6, 0.6, 0.6, verdict)


def test_what_cannot_be_judged_is_refused() -> None:
    for others in ((), (subject("a-0.5", STEADY, engine="torch"),)):
        with pytest.raises(UsageError, match="no variant was timed on onnxruntime"):
            judge_speed(report(*others), SpeedLimits(max_bytes_ratio=1.0))
    for limit in (0.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="max_bytes_ratio must be a number above 0"):
            SpeedLimits(max_bytes_ratio=limit)
