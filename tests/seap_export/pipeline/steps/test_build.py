"""The steps of an export: their order, and keys that change with every input and only with those."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.corpora import micro_texts
from support.models import write_micro_model
from support.product import (
    EVEN,
    BlockQuantization,
    CalibrationSettings,
    ExportRequest,
    GgufFormat,
    Limits,
    MixtureSpec,
    OnnxForm,
    OnnxFormat,
    ParitySettings,
    PlanSettings,
    Source,
    Sparsity,
    choose_precision,
    open_source,
)

from converters.openvino.format import OpenvinoFormat
from converters.web.format import WebFormat
from seap_export.corpus import Sample, Split, Task
from seap_export.pipeline.steps.build import export_steps
from seap_export.pipeline.steps.single.calibration import CalibrationStep
from seap_export.pipeline.steps.single.formats import FormatStep, ParityStep
from seap_export.pipeline.steps.single.ranking import RankingStep
from seap_export.pipeline.steps.single.rounding import RoundingStep
from seap_export.pipeline.steps.single.variant import PlanStep, ShrinkStep

TEXTS = micro_texts(6)
SPLIT = Split(tuple(Sample(text, "") for text in TEXTS[:4]), tuple(Sample(text, "") for text in TEXTS[4:]))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return open_source(str(write_micro_model(tmp_path / "m", model_type="llama")))


def test_the_statistics_key() -> None:
    settings, a = CalibrationSettings(), Sample(TEXTS[4][:3], TEXTS[4][3:])
    changes: list[dict[str, Any]] = [
        {}, {"calibration": SPLIT.calibration[1:]}, {"held_out": SPLIT.held_out[1:]},
        {"held_out": (a, SPLIT.held_out[1])},
        {"held_out": (replace(a, question="Why?"), SPLIT.held_out[1])},  # it is in the record
    ]  # fmt: skip
    given = [(replace(SPLIT, **change), settings, "model") for change in changes]
    given += [(SPLIT, replace(settings, **change), "model") for change in ({"seed": 1}, {"max_length": 8})]
    steps = [CalibrationStep("a", *values, 12, checks=True) for values in [*given, (SPLIT, settings, "other")]]
    assert len({step.key for step in steps}) == len(steps)
    assert CalibrationStep("b", SPLIT, settings, "model", 12, checks=False).key == steps[0].key


def test_every_file_of_the_model_counts(source: Source, tmp_path: Path) -> None:
    templates = ["chat_template.jinja", "additional_chat_templates/chat_template.jinja"]
    (tmp_path / "m" / templates[1]).parent.mkdir()
    for template in templates:
        (tmp_path / "m" / template).write_text("x")
    digests = [open_source(str(tmp_path / "m")).digest]
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", *templates):
        with (tmp_path / "m" / name).open("a") as file:
            file.write("\n")
        digests.append(open_source(str(tmp_path / "m")).digest)
    assert len(set(digests)) == len(digests)


MIXTURE = MixtureSpec("x", {"a": 1.0, "b": 2.0})
SETTINGS = PlanSettings("wifv", Sparsity("logistic"))


def ranking(mixture: MixtureSpec = MIXTURE, settings: PlanSettings = SETTINGS, model: str = "model") -> RankingStep:
    calibration = CalibrationSettings()
    steps = {task: CalibrationStep(task, SPLIT, calibration, model, 12, checks=False) for task in mixture.weights}
    return RankingStep(mixture, settings, tuple(steps.values()))


def test_the_keys_of_plans_and_rankings() -> None:
    key = PlanStep(ranking(), 0.2).key
    changes: list[dict[str, Any]] = [
        {"score": "wifn"}, {"align": 8}, {"compensation": "none"}, {"sparsity": Sparsity("uniform")},
        {"sparsity": Sparsity(k=0.9)}, {"sparsity": Sparsity(x0=0.4)}, {"sparsity": Sparsity(protect_first=3)},
        {"balance": "alike"}, {"ridge": 1.0}, {"mix": "plain"}, {"sparsity": Sparsity("adaptive", budget="macs")},
        {"sparsity": Sparsity("adaptive", budget="macs", context=9)}, {"sparsity": EVEN},
        {"sparsity": EVEN, "layout": "uniform"}, {"group_tolerance": 0.01},
    ]  # fmt: skip
    rankings = [ranking(settings=replace(SETTINGS, **change)) for change in changes]
    rankings += [ranking(model="other"), ranking(replace(MIXTURE, name="y"))]
    rankings += [ranking(replace(MIXTURE, weights=weights)) for weights in ({"a": 1.0, "b": 3.0}, {"a": 1.0})]
    keys = [key, PlanStep(ranking(), 0.20000001).key, *(PlanStep(each, 0.2).key for each in rankings)]
    assert len(set(keys)) == len(keys)
    spelled_out = replace(SETTINGS, sparsity=Sparsity(protect_first=1, protect_last=1))
    assert PlanStep(ranking(settings=spelled_out), 0.2).key == key
    assert PlanStep(ranking(MixtureSpec("x", {"b": 2.0, "a": 1.0})), 0.2).key == key
    # A ranking serves every plan that differs only in how it is spread.
    assert ranking(settings=replace(SETTINGS, sparsity=EVEN, align=8, compensation="none")).key == ranking().key
    assert ranking(settings=replace(SETTINGS, ridge=1.0)).key != ranking().key


def test_the_keys_of_a_variant_follow_from_each_other() -> None:
    plan = PlanStep(ranking(), 0.2)
    hf = ShrinkStep(plan)
    forms = [OnnxForm(), OnnxForm(logits="last"), OnnxForm(choose_precision("int4"))]
    keys = [plan.key, hf.key, *(FormatStep(hf, "onnx", OnnxFormat.of(form)).key for form in forms)]
    keys.append(FormatStep(ShrinkStep(PlanStep(ranking(), 0.3)), "onnx", OnnxFormat.of(OnnxForm())).key)
    grids = [RoundingStep(hf, BlockQuantization(4, size)) for size in (32, 64)]
    keys += [step.key for step in grids]
    keys.append(FormatStep(grids[0], "onnx", OnnxFormat.of(forms[2])).key)
    settings, onnx = ParitySettings(), FormatStep(hf, "onnx", OnnxFormat.of(OnnxForm()))
    changes: list[dict[str, Any]] = [
        {}, {"provider": "cuda"}, {"decode_steps": 9}, {"long_tokens": 9}, {"prompts": 1},
        {"limits": Limits((("fp32", "max_abs", 1.0),))},
    ]  # fmt: skip
    keys += [ParityStep(onnx, replace(settings, **change)).key for change in changes]
    keys.append(ParityStep(FormatStep(hf, "onnx", OnnxFormat.of(forms[1])), settings).key)
    assert len(set(keys)) == len(keys)
    # Both tasks have the same two held-out texts, so that there are four prompts.
    assert ParityStep(onnx, replace(settings, prompts=9)).key == ParityStep(onnx, settings).key
    # `manifest` warns of steps that were made with another number of threads, and keeps them.
    assert ParityStep(onnx, replace(settings, threads=1)).key == ParityStep(onnx, settings).key


def test_each_step_comes_after_those_that_it_needs(source: Source, tmp_path: Path) -> None:
    tasks = tuple(Task(name, tmp_path / f"{name}.txt") for name in "ab")
    steps = export_steps(source, ExportRequest(tasks, (0.2, 0.5), (MIXTURE,)), {"a": SPLIT, "b": SPLIT})
    seen: set[str] = set()
    for step in steps.paths:
        assert {need.name for need in step.needs} <= seen
        assert step.name not in seen
        seen.add(step.name)
    assert len(seen) == 2 + 3 + 6 * 4
    assert [step.checks for step in steps.calibrations.values()] == [True, False]


def test_formats_with_the_same_grid_share_its_rounding(source: Source, tmp_path: Path) -> None:
    task = Task("a", tmp_path / "a.txt")
    formats = (OnnxFormat("int4"), WebFormat("q4"), OpenvinoFormat("int4"), WebFormat("q8"), GgufFormat("q4_0"))
    formats += (GgufFormat("q4_k_m"),)
    request = ExportRequest((task,), (0.2,), formats=formats, quality=False, speed=False)
    variant = export_steps(source, request, {"a": SPLIT}).variants["a-0.2"]
    grids = ["int4-32", "int4-32-float-embeddings-whole-blocks"]
    assert [step.name for step in variant.rounded] == [f"rounding/a-0.2/{grid}" for grid in grids]
    rounded = {folder for folder, step in variant.formats.items() if step.before in variant.rounded}
    assert rounded == {"onnx", "web", "openvino", "gguf"}
    plain = export_steps(source, replace(request, rounding="nearest"), {"a": SPLIT}).variants["a-0.2"]
    assert not plain.rounded
    for folder, step in variant.formats.items():
        assert (plain.formats[folder].key == step.key) is (folder not in rounded)
