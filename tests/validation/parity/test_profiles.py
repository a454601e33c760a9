"""Limits: the defaults, those of a file, what noise lets pass, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.product import Precision, choose_precision

from seap_export.errors import UsageError
from validation.parity.profiles import DEFAULT_LIMITS, Limit, Limits, Noise, passes, read_limits, single_pass

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
