"""A key changes with every input, and only with those."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from micro import micro_texts, write_micro_model

from converters.form import OnnxForm
from converters.precision import choose_precision
from seap_export.corpus import Sample, Split
from seap_export.errors import UsageError
from seap_export.pipeline.keys import calibration_key, hf_key, onnx_key, parity_key, plan_key
from seap_export.pipeline.mixtures import MixtureSpec
from seap_export.pipeline.settings import CalibrationSettings, ParitySettings
from seap_export.plan.recipes import PlanSettings
from seap_export.plan.sparsity import EVEN, Sparsity
from seap_export.sources.source import Source, open_source
from validation.profiles import Limits

TEXTS = micro_texts(6)
SPLIT = Split(tuple(Sample(text, "") for text in TEXTS[:4]), tuple(Sample(text, "") for text in TEXTS[4:]))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return open_source(str(write_micro_model(tmp_path / "m", model_type="llama")))


def test_the_statistics_key(source: Source, tmp_path: Path) -> None:
    settings = CalibrationSettings()
    key = calibration_key(source, SPLIT, settings)
    prompt, rest = TEXTS[4][:3], TEXTS[4][3:]
    same_texts = replace(SPLIT, held_out=(Sample(prompt, rest), SPLIT.held_out[1]))
    others = [
        calibration_key(source, replace(SPLIT, calibration=SPLIT.calibration[1:]), settings),
        calibration_key(source, replace(SPLIT, held_out=SPLIT.held_out[1:]), settings),
        calibration_key(source, same_texts, settings),
        calibration_key(source, SPLIT, replace(settings, seed=1)),
        calibration_key(source, SPLIT, replace(settings, max_length=8)),
    ]
    assert len({key, *others}) == 1 + len(others)
    assert calibration_key(source, SPLIT, replace(settings, batch_tokens=7)) == key


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_every_file_of_the_model_counts(source: Source, tmp_path: Path, name: str) -> None:
    key = calibration_key(source, SPLIT, CalibrationSettings())
    path = tmp_path / "m" / name
    path.write_text(path.read_text() + "\n")
    assert calibration_key(open_source(str(tmp_path / "m")), SPLIT, CalibrationSettings()) != key


def test_the_name_of_the_model_does_not_count(source: Source, tmp_path: Path) -> None:
    key = calibration_key(source, SPLIT, CalibrationSettings())
    (tmp_path / "m").rename(tmp_path / "n")
    assert calibration_key(open_source(str(tmp_path / "n")), SPLIT, CalibrationSettings()) == key


STATISTICS = {"a": "key of a", "b": "key of b"}
MIXTURE = MixtureSpec("x", {"a": 1.0, "b": 2.0})


def test_the_plan_key() -> None:
    settings = PlanSettings("wifv", Sparsity("logistic"))
    key = plan_key(STATISTICS, MIXTURE, settings, 0.2, 12)
    changes: list[dict[str, Any]] = [
        {"score": "wifn"}, {"align": 8}, {"compensation": "none"}, {"sparsity": Sparsity("uniform")},
        {"sparsity": Sparsity(k=0.9)}, {"sparsity": Sparsity(x0=0.4)}, {"sparsity": Sparsity(protect_first=3)},
        {"balance": "alike"}, {"ridge": 1.0}, {"mix": "plain"}, {"sparsity": Sparsity("adaptive", budget="macs")},
        {"sparsity": Sparsity("adaptive", budget="macs", context=9)}, {"sparsity": EVEN},
        {"sparsity": EVEN, "layout": "uniform"}, {"group_tolerance": 0.01},
    ]  # fmt: skip
    others = [plan_key(STATISTICS, MIXTURE, replace(settings, **change), 0.2, 12) for change in changes]
    others += [
        plan_key({**STATISTICS, "b": "another"}, MIXTURE, settings, 0.2, 12),
        plan_key(STATISTICS, replace(MIXTURE, name="y"), settings, 0.2, 12),
        plan_key(STATISTICS, replace(MIXTURE, weights={"a": 1.0, "b": 3.0}), settings, 0.2, 12),
        plan_key(STATISTICS, replace(MIXTURE, weights={"a": 1.0}), settings, 0.2, 12),
        plan_key(STATISTICS, MIXTURE, settings, 0.20000001, 12),
    ]
    assert len({key, *others}) == 1 + len(others)
    spelled_out = replace(settings, sparsity=Sparsity(protect_first=1, protect_last=1))
    assert plan_key(STATISTICS, MIXTURE, spelled_out, 0.2, 12) == key
    turned = MixtureSpec("x", {"b": 2.0, "a": 1.0})
    assert plan_key({**STATISTICS, "c": "not in it"}, turned, settings, 0.2, 12) == key


def test_the_keys_of_a_variant_follow_from_each_other() -> None:
    form = OnnxForm()
    keys = {"plan", hf_key("plan"), onnx_key("plan", form), onnx_key(hf_key("plan"), form)}
    keys |= {onnx_key("plan", OnnxForm(logits="last")), onnx_key("plan", OnnxForm(choose_precision("int4")))}
    assert len(keys) == 6
    settings = ParitySettings()
    key = parity_key("onnx", settings, ["prompt"])
    changes: list[dict[str, Any]] = [{"provider": "cuda"}, {"decode_steps": 9}, {"long_tokens": 9}, {"threads": 1}]
    changes.append({"limits": Limits((("fp32", "max_abs", 1.0),))})
    others = [parity_key("onnx", replace(settings, **change), ["prompt"]) for change in changes]
    others += [parity_key("other", settings, ["prompt"]), parity_key("onnx", settings, ["prompt", "another"])]
    assert len({key, *others}) == 1 + len(others)
    assert parity_key("onnx", replace(settings, prompts=9), ["prompt"]) == key


def test_settings_refuse_values_that_mean_nothing() -> None:
    with pytest.raises(UsageError, match="magnitude"):
        PlanSettings(score="magnitude")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="all"):
        PlanSettings(compensation="all")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--long-tokens 0 is out of range; give at least 1"):
        ParitySettings(long_tokens=0)
