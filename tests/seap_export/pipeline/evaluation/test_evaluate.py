"""What an evaluation reads and checks, and its report; the command's tests run it whole."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from support.estimates import kl_estimate
from support.models import write_micro_model
from support.product import CalibrationRecord, DivergenceFigures, Source, open_source

from seap_export.corpus import text_digest
from seap_export.errors import InputError
from seap_export.pipeline.evaluation.material import Texts
from seap_export.pipeline.evaluation.report import EvaluationReport, TaskOrigin
from seap_export.pipeline.evaluation.request import EvaluationRequest
from seap_export.pipeline.evaluation.subject import Subject
from validation.generation import GenerationFigures
from validation.generation.figures import Answer
from validation.zero_shot import ZeroShotFigures

DIVERGENCE = DivergenceFigures(kl_estimate(0.125, 0.015625), 0.9, 12.0, 10.0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(str(write_micro_model(tmp_path_factory.mktemp("dense") / "m", model_type="llama")))


def _figures(acc: float) -> ZeroShotFigures:
    return ZeroShotFigures(acc, acc, 0.1, 0.1, 20, 0.5, "aa", tuple(index < round(20 * acc) for index in range(20)))


def _generated(*right: bool) -> GenerationFigures:
    answers = (Answer("1 + 1 =", " 2", 1, True, "2", "2" if answer else "3") for answer in right)
    return GenerationFigures(tuple(answers), "bb")


def _report(source: Source, dense: float = 0.8, **limits: Any) -> EvaluationReport:
    return EvaluationReport(
        subject=Subject("m", None, None, source),
        request=EvaluationRequest(**limits),
        texts=Texts("file", ("a",), ("the cat",), (), True),
        divergence={"hf": DIVERGENCE},
        tasks={"piqa": TaskOrigin("file", None, True)},
        zero_shot={"dense": {"piqa": _figures(dense)}, "hf": {"piqa": _figures(0.6)}},
        threads=1,
        versions={"torch": "2"},
    )


@pytest.mark.parametrize(
    ("limits", "passed", "words"),
    [
        ({"max_kl": 0.109375}, False, "mean KL 0.125 nats is above 0.109375; too close to tell: .* 6 more texts"),
        ({"min_accuracy_retained": 0.7}, True, "retains 75.00% of acc, .* too close to tell: .* 480 more"),
    ],
)
def test_near_a_limit_the_figure_decides_and_the_gate_says_that_it_is_close(
    source: Source, limits: dict[str, float], passed: bool, words: str
) -> None:
    report = _report(source, harness_tasks=("piqa",), **limits)
    assert report.passed is passed
    (said,) = report.notes if passed else report.reasons
    assert re.match(f"hf: .*{words}", said.replace("about ", ""))
    (verdict,) = report.to_json()["verdicts"]
    assert (verdict["verdict"], verdict["too_close_to_tell"]) == ("passed" if passed else "failed", True)
    expected = DIVERGENCE.kl if "max_kl" in limits else report.accuracy_retained["hf"]["piqa"]
    assert expected is not None
    assert (verdict["found"], verdict["stderr"]) == (expected.mean, expected.stderr)


def test_a_dense_model_without_a_right_answer_proves_nothing(source: Source) -> None:
    report = _report(source, dense=0.0, harness_tasks=("piqa",), min_accuracy_retained=0.5)
    assert report.accuracy_retained == {"hf": {"piqa": None}}
    assert report.reasons == ("hf: piqa retains nothing of acc, below 50.00%",)


def test_flips_are_counted_beside_an_accuracy_that_stayed(source: Source) -> None:
    """The dense model and the variant are right as often, but not where it was."""
    right = {"dense": (True, True, False, False, False), "hf": (False, False, True, True, False)}
    tasks = {"piqa": TaskOrigin("file", None, True), "sums": TaskOrigin("file", None, True, 4)}
    report = replace(
        _report(source), tasks=tasks, generation={form: {"sums": _generated(*row)} for form, row in right.items()}
    )
    values = report.to_json()
    assert values["accuracy_retained"]["hf"] == {"piqa": pytest.approx(0.75), "sums": 1.0}
    # differences -1, -1, 1, 1 and 0, and half a question more on either side: their sum of squares is 5
    assert values["accuracy_difference"]["hf"]["sums"] == {"mean": 0.0, "stderr": pytest.approx(math.sqrt(5 / 4 / 5))}
    assert report.flipped["hf"]["piqa"] == {"right_to_wrong": 4, "wrong_to_right": 0}
    assert report.flipped["hf"]["sums"] == {"right_to_wrong": 2, "wrong_to_right": 2}
    assert values["generation"]["hf"]["sums"]["exact_match"] == 0.4
    assert (values["tasks"]["sums"]["num_fewshot"], values["tasks"]["sums"]["sha256"]) == (4, "bb")


def test_forms_are_compared_on_the_same_texts(source: Source) -> None:
    """Both texts diverge by as much more, so that the difference is surer than either divergence."""
    onnx = replace(DIVERGENCE, kl=kl_estimate(0.25, 0.015625))
    report = replace(_report(source), divergence={"hf": DIVERGENCE, "onnx": onnx})
    assert report.to_json()["kl_difference"] == {"onnx": {"mean": 0.125, "stderr": 0.0}}
    other = replace(DIVERGENCE, kl=kl_estimate(0.25, 0.015625, tokens=3))
    assert replace(report, divergence={"hf": DIVERGENCE, "onnx": other}).kl_difference == {}


def test_calibrated_texts_are_refused_by_digest(source: Source) -> None:
    record = CalibrationRecord("a", "m", source.digest, 0, 64, 8, (text_digest("the cat sat"),), ("bb",), ())
    subject = Subject("m", None, (record,), source)
    assert subject.is_disjoint("task 'a'", [("the cat", ""), ("sat", "")]) is True
    assert replace(subject, records=None).is_disjoint("task 'a'", [("the cat sat", "")]) is None
    with pytest.raises(InputError, match="task 'a': 1 of the 2 evaluated texts"):
        subject.is_disjoint("task 'a'", [("the cat", ""), ("the cat sat", "")])
