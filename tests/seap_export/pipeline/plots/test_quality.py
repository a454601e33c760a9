from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from seap_export.errors import ArtifactError, UsageError
from seap_export.pipeline.plots.quality import parse_evaluation, refuse_incomparable

REPORT: dict[str, Any] = {
    "schema": "seap-export/evaluation/2",
    "variant": "a-0.2",
    "task": "a",
    "method": None,
    "score": "wifv",
    "sparsity": "logistic",
    "compensation": "bias",
    "requested_ratio": 0.2,
    "achieved_ratio": 0.19,
    "divergence": {
        "hf": {"mean_kl_nats": 0.25, "top1_agreement": 0.9, "perplexity": 12.0, "dense_perplexity": 10.0, "tokens": 9},
        "onnx": {"mean_kl_nats": 0.5, "top1_agreement": 0.9, "perplexity": 13.0, "dense_perplexity": 10.0},
    },
    "zero_shot": {"hf": {"piqa": {"acc": 0.6, "acc_norm": 0.7}}, "dense": {"piqa": {"acc": 0.65, "acc_norm": 0.7}}},
}


def report(*path: str, value: Any = None, **values: Any) -> dict[str, Any]:
    """A copy of `REPORT` with other values: those of keywords, and the one at a path."""
    made = {**deepcopy(REPORT), **values}
    if path:
        cell = made
        for key in path[:-1]:
            cell = cell[key]
        cell[path[-1]] = value
    return made


def test_a_point_is_that_of_the_safetensors_form() -> None:
    point = parse_evaluation(REPORT, "r.json")
    assert (point.variant, point.task, point.form, point.achieved_ratio) == ("a-0.2", "a", "hf", 0.19)
    assert (point.mean_kl_nats, point.perplexity, point.dense_perplexity) == (0.25, 12.0, 10.0)
    assert (point.accuracy, point.dense_accuracy) == ({"piqa": 0.6}, {"piqa": 0.65})
    assert point.stderr == {}
    assert point.settings == ("SEAP", "wifv", "logistic", "bias")


def test_exact_match_stands_beside_accuracy() -> None:
    generation = {"dense": {"gsm8k": {"exact_match": 0.5}}, "hf": {"gsm8k": {"exact_match": 0.25}}}
    point = parse_evaluation(report(generation=generation), "r.json")
    assert (point.accuracy, point.dense_accuracy) == ({"gsm8k": 0.25, "piqa": 0.6}, {"gsm8k": 0.5, "piqa": 0.65})
    alone = parse_evaluation(report(divergence={}, zero_shot={}, generation=generation), "r.json")
    assert (alone.form, alone.accuracy) == ("hf", {"gsm8k": 0.25})


@pytest.mark.parametrize("value", [None, float("inf")])
def test_a_perplexity_beyond_floats_is_left_out(value: float | None) -> None:
    point = parse_evaluation(report("divergence", "hf", "perplexity", value=value), "r.json")
    assert (point.perplexity, point.mean_kl_nats) == (None, 0.25)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (report(schema="seap-export/parity/1"), "evaluation schema is 'seap-export/parity/1'"),
        ({key: value for key, value in REPORT.items() if key != "score"}, "'score' is missing"),
        (report(achieved_ratio="0.2"), "'0.2' is not a finite number"),
        (report(divergence={}, zero_shot={}), "neither divergence nor zero_shot"),
        (report("divergence", "hf", "mean_kl_nats", value=float("nan")), "nan is not a finite number"),
        (report("zero_shot", "hf", "piqa", "acc", value=60), "accuracy must"),
        (report(divergence=[1]), "not a valid evaluation"),
    ],
)
def test_a_bad_report_is_refused_by_name(made: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        parse_evaluation(made, "r.json")
    assert str(caught.value).startswith("r.json: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_texts_or_questions_of_a_task_are_refused() -> None:
    asked = {"texts": {"sha256": "aa"}, "tasks": {"piqa": {"origin": "hub", "sha256": "bb"}}}
    first, same = parse_evaluation(report(**asked), ""), parse_evaluation(report(**asked, method="wanda-sp"), "")
    assert first.digests == {"texts": "aa", "questions of piqa": "bb"}
    refuse_incomparable([first, same])
    texts = parse_evaluation(report(**{**asked, "texts": {"sha256": "cc"}}), "")
    with pytest.raises(UsageError, match="task 'a' have different texts"):
        refuse_incomparable([first, texts])
    questions = parse_evaluation(report(**{**asked, "tasks": {"piqa": {"sha256": "cc"}}}), "")
    with pytest.raises(UsageError, match="task 'a' have different questions of piqa"):
        refuse_incomparable([first, questions])
