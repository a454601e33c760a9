"""Speed-ups are against the dense model on the same engine, with intervals that hold the true median."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.product import BlockQuantization, Precision

from seap_export.model.families import model_spec
from validation.speed.ideal import ModelWork, model_work
from validation.speed.interval import Interval, median_interval
from validation.speed.measure import SpeedCell, Timing
from validation.speed.report import SpeedReport, Speedup, SubjectFigures

CELL = SpeedCell(2, 8)


def subject(
    model: str, engine: str, size: int = 9, prefill: float = 1.0, step: float = 1.0, work: float = 1.0
) -> SubjectFigures:
    timings, works = {CELL: Timing([prefill] * 5, [step] * 5)}, {CELL: ModelWork(work, 2 * work)}
    return SubjectFigures(model, engine, size, 7, timings, works, 5)  # type: ignore[arg-type]


@pytest.fixture
def report() -> SpeedReport:
    subjects = [
        subject("dense", "torch", 100, 8.0, 1.0, 40.0),
        subject("dense", "onnxruntime", 90, 4.0, 0.5, 40.0),
        subject("a-0.5", "torch", 60, 4.0, 1.25, 20.0),
        subject("a-0.5", "onnxruntime", 90, 2.5, 0.25, 20.0),
    ]
    return SpeedReport(subjects, [CELL], {"threads": 2})


def test_speedups_and_what_is_no_better(report: SpeedReport) -> None:
    on_torch, on_onnx = report.subjects[2:]
    assert (report.prefill(on_torch, CELL).measured, report.decode(on_torch, CELL).measured) == (2.0, 0.8)
    decode = report.decode(on_onnx, CELL)
    assert (decode.measured, decode.ideal, decode.share) == (2.0, 2.0, 1.0)
    assert report.prefill(on_onnx, CELL).share == pytest.approx(0.8)
    assert report.complaints == [
        "a-0.5 on torch: decode is slower than the dense model (batch 2, 8 tokens: 0.80x)",
        "a-0.5 on onnxruntime is no smaller than the dense model",
    ]
    # with an interval that reaches to 1, or without one, the table says that there is no speed-up
    intervals = (Interval(0.8, 0.99), Interval(0.8, 1.0), None)
    assert [Speedup(0.9, 1.2, interval).is_slower for interval in intervals] == [True, False, False]


def test_a_speedup_has_an_interval_of_paired_runs_that_holds_it() -> None:
    dense, variant = subject("dense", "torch"), subject("a-0.5", "torch")
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
    models = [subject(name, "torch") for name in ("dense", "a-0.5")]
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
