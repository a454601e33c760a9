"""`seap-export bench` on micro models: what is timed and said. No time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.exports import Run
from support.product import OnnxForm, PeakMemory, choose_precision

from seap_export.pipeline.evaluation import bench

QUICK = ("--depth", 8, "--depth", 16, "--batch", 1, "--batch", 2, "--runs", 1, "--steps", 2, "--threads", 1)


@pytest.fixture(autouse=True)
def _memory_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that imports torch for each model would take most of the time."""
    measure, stand_in = bench.peak_memory, PeakMemory(10**9, None)
    monkeypatch.setattr(
        bench, "peak_memory", lambda engine, *of: stand_in if engine == "torch" else measure(engine, *of)
    )


def test_a_variant_on_both_engines(run: Run, done: Path, work: Path) -> None:
    outcome = run("bench", "out/a-0.4", "--dense", "m", *QUICK, "--out", "bench.json")
    assert outcome.code == 0
    values = json.loads((work / "bench.json").read_text("utf-8"))
    assert [(subject["model"], subject["engine"]) for subject in values["subjects"]] == [
        (model, engine) for model in ("dense", "a-0.4") for engine in ("torch", "onnxruntime")
    ]
    assert values["setting"]["threads"] == 1
    assert values["setting"]["form"] == OnnxForm(choose_precision("int8"), logits="last").to_json()
    for subject in values["subjects"]:
        assert [(cell["batch"], cell["depth"]) for cell in subject["cells"]] == [(1, 8), (1, 16), (2, 8)]
        assert all(cell["prefill_s"] > 0 and cell["decode_step_s"] > 0 for cell in subject["cells"])
        assert subject["peak_bytes"] > 50e6
    dense, small = values["subjects"][1], values["subjects"][3]
    assert small["disk_bytes"] < dense["disk_bytes"]
    assert small["cells"][0]["decode_ideal_speedup"] > 1.2
    assert dense["cells"][0]["decode_speedup"] == 1.0
    for text in ("on disk", "peak memory", "tokens/s", "a-0.4", "onnxruntime", "reached"):
        assert text in outcome.out
    assert "timing dense, a-0.4" in outcome.err


def test_all_variants_in_another_form_with_as_many_tokens_as_the_context_holds(
    run: Run, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "peak_memory", lambda *_: PeakMemory(10**9, None))
    words = (*QUICK[4:], "--runtime", "onnxruntime", "--precision", "fp32", "--json")
    outcome = run("bench", "out", "--dense", "m", *words)
    assert outcome.code == 0
    values = json.loads(outcome.out)
    assert [subject["model"] for subject in values["subjects"]] == ["dense", "a-0.2", "a-0.4", "b-0.2", "b-0.4"]
    assert {cell["depth"] for subject in values["subjects"] for cell in subject["cells"]} == {126}
    assert values["setting"]["form"] == OnnxForm(logits="last").to_json()
    assert "a-0.4: writing ONNX" in outcome.err


def test_beside_bits_for_each_matrix_the_dense_model_has_the_same_for_all(run: Run, done: Path) -> None:
    """No texts choose its bits; a variant is timed with those that it has."""
    for ratio, average in ((0.2, "3.5"), (0.4, "4")):
        words = ("--calibration", "out/calibration/a", "--format", f"onnx:mixed-{average}", "--force", "--quiet")
        assert run("convert", f"out/a-{ratio}/hf", *words, "--out", f"out/a-{ratio}/onnx").code == 0
    bits = ("--runtime", "onnxruntime", "--precision", "mixed-4", *QUICK[:2], *QUICK[-6:])
    outcome = run("bench", "out/a-0.2", "out/a-0.4", "--dense", "m", *bits, "--json")
    assert outcome.code == 0, outcome.err
    assert "dense: writing ONNX in int4" in outcome.err
    assert "a-0.2: writing" not in outcome.err
    subjects = json.loads(outcome.out)["subjects"]
    assert [subject["model"] for subject in subjects] == ["dense", "a-0.2", "a-0.4"]
    small = {subject["model"]: subject["cells"][0]["decode_ideal_speedup"] for subject in subjects}
    assert small["a-0.4"] > small["dense"] == 1.0
