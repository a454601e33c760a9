"""The verdict on few tokens, and figures that stand beside the limits of their own stages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.product import choose_precision

from validation.estimate import TokenEstimate
from validation.metrics import LogitFigures
from validation.parity.profiles import Limits, Noise, Pass, passes
from validation.parity.report import ComparedFolder, Conditions, ParityReport
from validation.parity.stage import Stage, StageResult, round_beyond
from validation.prompts import Case

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
        (
            [stage(2, 0.0403), stage(61, 0.004)],
            "passed",
            "too few alone: mean KL 0.00509 <= 0.0103 over all 64 tokens",
        ),
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
