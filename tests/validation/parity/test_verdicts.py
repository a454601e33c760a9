"""Limits, the verdict on few tokens, and figures of caches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.product import Precision, choose_precision

from seap_export.errors import UsageError
from validation.estimate import TokenEstimate
from validation.metrics import LogitFigures
from validation.parity.caches import CacheComparison
from validation.parity.profiles import DEFAULT_LIMITS, Limit, Limits, Noise, Pass, passes, read_limits, single_pass
from validation.parity.report import ComparedFolder, Conditions, ParityReport
from validation.parity.stage import Stage, StageResult, round_beyond
from validation.prompts import Case

DEFAULT = Limits()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\ufeff[fp32]\nmax_abs = 0.01\n[fp16]\nclear_top1_agreement = 1\n", ""),
        ("max_abs = 1", "'max_abs' is not a precision; .*fp32, fp16, bf16, int8, int4"),
        ("[fp32]\nmean_kl = 1", "fp32 has no limit 'mean_kl'; it has max_abs, cache_error"),
        ("[fp32]\nmax_abs = 0", "fp32 max_abs must be a positive number, not 0"),
        ("[fp32]\nmax_abs = true", "must be a positive number, not True"),
    ],
)
def test_a_file_replaces_what_it_names_and_nothing_else(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(text, "utf-8")
    if message:
        with pytest.raises(UsageError, match=message):
            read_limits(path)
        return
    limits = read_limits(path)
    assert limits.of("fp32") == {"max_abs": 0.01, "cache_error": 1e-3}
    assert limits.of("fp16") == {"mean_kl": 1e-4, "clear_top1_agreement": 1.0}
    assert limits.of("int4") == DEFAULT_LIMITS["int4"]
    assert limits.looser("fp32") == ("fp32 max_abs 0.01 is looser than the default 0.001",)
    assert limits.looser("fp16") == limits.looser("int4") == ()


def test_the_largest_values_pass_and_agreement_is_from_below() -> None:
    largest, least = Limit("mean_kl", 0.1), Limit("clear_top1_agreement", 0.9)
    assert [largest.is_exceeded(value) for value in (0.1, 0.11, None)] == [False, True, False]
    assert [least.is_exceeded(value) for value in (0.9, 0.89, None)] == [False, True, False]
    assert largest.is_exceeded(float("nan"))
    assert least.excess(0.8) == pytest.approx(2.0)


EXACT = {"max_abs", "cache_error"}


@pytest.mark.parametrize(
    ("precision", "provider", "figures"),
    [
        (Precision(), "cpu", [("", False, EXACT)]),
        (Precision("fp16"), "cuda", [("", False, {"mean_kl", "clear_top1_agreement"})]),
        (choose_precision("int4"), "cpu", [("in float32", True, EXACT), ("", False, {"mean_kl"})]),
        (choose_precision("int4", "cuda"), "cuda", [("", False, {"mean_kl"})]),
    ],
)
def test_what_each_precision_is_judged_by(precision: Precision, provider: str, figures: list[Any]) -> None:
    runs = passes(precision, provider, Limits())
    assert [(run.label, run.in_float, {limit.figure for limit in run.limits}) for run in runs] == figures


def limits_for(precision: Precision, noise: Noise, tokens: int, limits: Limits = DEFAULT) -> dict[str, float]:
    last = passes(precision, "cpu", limits)[-1]
    return {limit.figure: limit.value for limit in last.limits_for(noise, tokens)}


@pytest.mark.parametrize(
    ("name", "noise", "tokens", "limit"),
    [
        ("fp16", Noise(), 16, 1e-4),
        ("fp16", Noise(mean_kl=0.01), 9, 0.06),
        ("fp16", Noise(mean_kl=0.01), 9 * 10**8, 0.03),
        ("fp16", Noise(mean_kl=0.01, kl_variation=4.0), 9, 0.15),
        ("int4", Noise(mean_kl=0.01), 1, 0.12),
        ("int4", Noise(), 1, 0.01),  # it is exact without the rounding
    ],
)
def test_what_rounds_is_held_to_torchs_own_noise(name: Any, noise: Noise, tokens: int, limit: float) -> None:
    """Three times, and three standard errors on top."""
    precision = choose_precision(name)
    found = limits_for(precision, noise, tokens)
    assert found["mean_kl"] == pytest.approx(limit, rel=1e-3)
    assert found.get("clear_top1_agreement", 0.99) == 0.99
    assert limits_for(precision, noise, tokens, Limits(((name, "mean_kl", 0.5),)))["mean_kl"] == 0.5
    (alone,) = single_pass(choose_precision("int4"), DEFAULT).limits
    assert alone.value == 1e-3


def test_noise_in_float32_widens_the_default_and_no_given_limit() -> None:
    noise = Noise(max_abs=5e-4) | Noise(max_abs=1e-4, cache_error=1e-5)
    assert limits_for(Precision(), noise, 1) == {"max_abs": 5e-3, "cache_error": 1e-3}
    assert limits_for(Precision(), noise, 1, Limits((("fp32", "max_abs", 1e-3),)))["max_abs"] == 1e-3
    assert limits_for(Precision(), Noise(max_abs=9.0), 1)["max_abs"] == 0.1  # that is no rounding


@pytest.mark.parametrize(
    ("noise", "limits"),
    [
        (Noise(max_abs=9.0, cache_error=1e-5, choices_kl=2e-3), {"cache_error": 1e-3, "mean_kl": 0.02}),
        (Noise(max_abs=9.0, cache_error=0.5, choices_kl=1e-9), {"mean_kl": 1e-3}),
        (Noise(max_abs=9.0, cache_error=0.5, choices_kl=1.0), {"mean_kl": 0.05}),
        (Noise(max_abs=1e-3, choices_kl=1.0), {"max_abs": 1e-2, "cache_error": 1e-3}),  # that is rounding
    ],
)
def test_where_routers_choose_otherwise_predictions_count(noise: Noise, limits: dict[str, float]) -> None:
    assert limits_for(Precision(), noise, 1) == pytest.approx(limits)
    given = limits_for(Precision(), noise, 1, Limits((("fp32", "max_abs", 5.0),)))
    assert given == {"max_abs": 5.0, "cache_error": 0.1 if noise.cache_error == 0.5 else 1e-3}


NOISE = Noise(mean_kl=0.0025)
(*_, RUN), (*_, GIVEN) = (
    passes(choose_precision("int4"), "cpu", limits) for limits in (Limits(), Limits((("int4", "mean_kl", 0.04),)))
)


def stage(tokens: int, kl: float, stage: Stage = "decode", run: Pass = RUN) -> StageResult:
    estimate = TokenEstimate.of_texts([np.full(tokens, kl)])
    figures = LogitFigures(tokens, None, None, None, estimate, 1.0)
    case = Case(f"prompt of {tokens}", ((1,),), ((2,),))
    return StageResult(case, run, stage, figures, run.limits_for(NOISE, tokens), NOISE)


def report(*stages: StageResult, **changes: Any) -> ParityReport:
    subject = ComparedFolder("onnx", "onnxruntime", "int4", "int4", {})
    values = {"decode_steps": 2, "max_prompt_tokens": 9, "prompt_sha256": ("a",), "longest_tokens": 9} | changes
    conditions = Conditions("CPUExecutionProvider", None, None, 1)
    return ParityReport(
        (stage(1, 1e-3, "prefill"), *stages), subject, "cpu", conditions, {}, context_length=9, **values
    )


@pytest.mark.parametrize(
    ("stages", "verdict", "words"),
    [
        # the first is of a good file: 2 tokens beyond the limit of 2 tokens, 0.0234
        ([stage(2, 0.0403)], "not judged", "3 tokens in all are too few to tell a fault from rounding"),
        ([stage(2, 0.0403), stage(60, 0.004)], "not judged", "63 tokens in all are too few"),
        ([stage(2, 0.0403), stage(61, 0.004)], "passed", "too few alone: mean KL 0.00509 <= 0.0103 over all 64"),
        ([stage(15, 0.1), stage(49, 0.007)], "failed", "too few alone: mean KL 0.0284 > 0.0103 over all 65 tokens"),
        ([stage(2, 0.235)], "failed", "mean KL 0.235 > 0.02"),  # ten times the limit is no chance
        ([stage(16, 0.0403)], "failed", "mean KL 0.0403 > 0.013"),
        ([stage(2, 0.0403, run=GIVEN)], "failed", "mean KL 0.0403 > 0.04"),
        ([stage(2, 0.0233)], "passed", ""),
        # each within the limit of its few tokens, all together not
        ([stage(2, 0.0233), stage(2, 0.0233)], "not judged", "mean KL 0.0188 > 0.0176 over all 5 tokens; 5 tokens in"),
    ],
)
def test_few_tokens_are_judged_together_and_too_few_not_at_all(
    stages: list[StageResult], verdict: str, words: str
) -> None:
    made = report(*stages)
    values = made.to_json()
    assert (made.verdict, values["verdict"]) == (verdict, verdict)
    assert made.passed is (verdict == "passed")
    told = values["notes"] if verdict == "passed" else values["reasons"]
    assert words in " ".join(told)
    assert bool(values["failure"]) is (verdict != "passed")
    if verdict == "not judged":
        is_of_a_stage = "(prompt of 2, decode)" in values["failure"]
        assert is_of_a_stage is ("not judged" in {case["verdict"] for case in values["cases"]})
        assert values["failure"].endswith("; use --decode-steps 16")
        assert replace(made, decode_steps=16).failure().endswith("; use --prompts 2")


def test_a_figure_stands_beside_the_limit_of_its_own_stage() -> None:
    made = report(stage(48, 0.006), stage(1, 0.0243), stage(16, 0.011))
    assert made.passed
    values = made.to_json()
    assert (values["mean_kl_nats"], values["limits"]["mean_kl"]) == (0.011, pytest.approx(0.013125))
    assert made.summary().startswith("parity passed: mean KL 0.011 (limit 0.0131), ")
    # limits are rounded up to two digits
    assert [*map(round_beyond, (0.0, 0.0032, 0.00321, 9.91e-4, 12.01))] == [0.0, 0.0032, 0.0033, 0.001, 13.0]
    assert round_beyond(0.98765, 4, down=True) == 0.9876


Layers = list[dict[str, np.ndarray]]


def layers() -> Layers:
    """Two layers of two heads, three tokens, four numbers each; keys are 1, values 10."""
    ones = np.ones((2, 3, 4), np.float32)
    return [{"key": ones.copy(), "value": 10 * ones} for _ in range(2)]


def compared(*rows: tuple[Layers, Layers]) -> CacheComparison:
    comparison = CacheComparison()
    for row, (wanted, layers) in enumerate(rows):
        comparison.update(enumerate(wanted), layers, row)
    return comparison


def test_the_error_is_relative_to_the_layers_own_size() -> None:
    keys, values = layers(), layers()
    assert compared((layers(), layers())).figures().error == 0.0
    keys[1]["key"][0, 2, 3] += 0.5
    values[0]["value"][1, 0, 0] += 0.6
    figures = compared((layers(), keys), (layers(), values)).figures()
    assert (figures.error, figures.layer, figures.part, figures.defect) == (0.5, 1, "key", "")
    assert figures.max_abs == pytest.approx(0.6)
    uneven = np.array([[[3.0, 4.0]]], np.float32)
    figures = compared(([{"key": uneven}], [{"key": uneven + 0.5}])).figures()
    assert figures.error == pytest.approx(0.5 / 12.5**0.5)  # the root mean square, not the largest


def test_another_shape_and_numbers_that_are_none_are_defects() -> None:
    short = [{**layer, "key": layer["key"][:, :2]} for layer in layers()]
    defect = compared((layers(), short)).figures().defect
    assert defect == "a cache of shape [2, 2, 4] in the keys of layer 0, row 0, expected [2, 3, 4]"
    broken = layers()
    broken[1]["value"][0, 0, 0] = np.nan
    defect = compared((layers(), layers()), (layers(), broken)).figures().defect
    assert defect == "NaN or Inf in the values of layer 1, row 1"
    with pytest.raises(ValueError, match="shorter"):
        compared((layers(), layers()[:1]))
    # a state that the reference does not have is not compared
    state = np.ones((5, 2), np.float32)
    figures = compared(([{"conv": state}, {}], [{"conv": state + 0.25}, {"conv": state}])).figures()
    assert (figures.error, figures.where) == (0.25, "in the conv state of layer 0")
