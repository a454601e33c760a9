from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from seap_export.errors import ArtifactError, UsageError
from seap_export.pipeline.plots.quality import parse_evaluation, refuse_incomparable, series_names

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


def test_onnx_alone_and_divergence_alone() -> None:
    divergence = {"onnx": REPORT["divergence"]["onnx"]}
    point = parse_evaluation(report(divergence=divergence, zero_shot=None), "r.json")
    assert (point.form, point.mean_kl_nats, point.accuracy, point.dense_accuracy) == ("onnx", 0.5, {}, {})


def test_errors_are_read_where_a_report_has_them() -> None:
    values = report("divergence", "hf", "mean_kl_nats_stderr", value=0.02)
    values["zero_shot"]["hf"]["piqa"]["acc_stderr"] = 0.015
    values["generation"] = {"hf": {"gsm8k": {"exact_match": 0.25, "exact_match_stderr": None}}}
    assert parse_evaluation(values, "r.json").stderr == {"mean_kl_nats": 0.02, "piqa": 0.015}


def test_exact_match_stands_beside_accuracy() -> None:
    generation = {"dense": {"gsm8k": {"exact_match": 0.5}}, "hf": {"gsm8k": {"exact_match": 0.25}}}
    point = parse_evaluation(report(generation=generation), "r.json")
    assert (point.accuracy, point.dense_accuracy) == ({"gsm8k": 0.25, "piqa": 0.6}, {"gsm8k": 0.5, "piqa": 0.65})
    alone = parse_evaluation(report(divergence={}, zero_shot={}, generation=generation), "r.json")
    assert (alone.form, alone.accuracy) == ("hf", {"gsm8k": 0.25})


def test_another_runtime_stands_for_the_variant_where_it_is_alone() -> None:
    name = "gguf in llama.cpp"
    divergence = {name: REPORT["divergence"]["onnx"]}
    point = parse_evaluation(report(divergence=divergence, zero_shot={name: REPORT["zero_shot"]["hf"]}), "r.json")
    assert (point.form, point.mean_kl_nats, point.accuracy) == (name, 0.5, {"piqa": 0.6})
    assert parse_evaluation(report(divergence={**divergence, **REPORT["divergence"]}), "r.json").form == "hf"


def test_benchmarks_alone_and_a_sparsity_spelled_out() -> None:
    point = parse_evaluation(report(divergence={}, sparsity={"kind": "uniform", "k": 0.8}), "r.json")
    assert (point.form, point.mean_kl_nats, point.perplexity) == ("hf", None, None)
    assert point.settings[2] == "uniform"


@pytest.mark.parametrize("value", [None, float("inf")])
def test_a_perplexity_beyond_floats_is_left_out(value: float | None) -> None:
    point = parse_evaluation(report("divergence", "hf", "perplexity", value=value), "r.json")
    assert (point.perplexity, point.mean_kl_nats) == (None, 0.25)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (report(schema="seap-export/parity/1"), "evaluation schema is 'seap-export/parity/1'"),
        ({key: value for key, value in REPORT.items() if key != "score"}, "'score' is missing"),
        (report(variant=None, task=None, achieved_ratio=None), "has no plan"),
        (report(achieved_ratio="0.2"), "'0.2' is not a finite number"),
        (report(achieved_ratio=True), "True is not a finite number"),
        (report(achieved_ratio=1.0), "achieved_ratio must be"),
        (report(divergence={}, zero_shot={}), "neither divergence nor zero_shot"),
        (report("divergence", "hf", "mean_kl_nats", value=float("nan")), "nan is not a finite number"),
        (report("divergence", "hf", "perplexity", value=0), "perplexity must be positive"),
        (report("zero_shot", "hf", "piqa", "acc", value=60), "accuracy must"),
        (report("zero_shot", "hf", "piqa", value=0.6), "not subscriptable"),
        (report(divergence=[1]), "not a valid evaluation"),
    ],
)
def test_a_bad_report_is_refused_by_name(made: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        parse_evaluation(made, "r.json")
    assert str(caught.value).startswith("r.json: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reports_on_other_texts_are_refused() -> None:
    same = parse_evaluation(report("divergence", "hf", "dense_perplexity", value=10.001), "same")
    texts = parse_evaluation(report("divergence", "hf", "dense_perplexity", value=11.0), "texts")
    benchmark = parse_evaluation(report("zero_shot", "dense", "piqa", "acc", value=0.5), "benchmark")
    other_task = parse_evaluation(report("divergence", "hf", "dense_perplexity", value=11.0, task="b"), "b")
    first = parse_evaluation(REPORT, "first")
    refuse_incomparable([first, same, other_task])
    with pytest.raises(UsageError, match=r"task 'a'.* perplexity is 10 in one and 11 in another"):
        refuse_incomparable([first, texts])
    with pytest.raises(UsageError, match=r"accuracy in piqa is 0\.65 in one and 0\.5 in another"):
        refuse_incomparable([first, benchmark])


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


def test_a_line_is_named_after_what_differs() -> None:
    seap, wanda = parse_evaluation(REPORT, ""), parse_evaluation(report(method="wanda-sp"), "")
    uniform = parse_evaluation(report(sparsity="uniform"), "")
    assert series_names([seap, wanda]) == ("SEAP", "wanda-sp")
    assert series_names([seap, uniform]) == ("SEAP, logistic", "SEAP, uniform")
    assert series_names([]) == ()
