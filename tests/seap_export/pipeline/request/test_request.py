"""What is asked for: mixtures of tasks, and the whole models beside variants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.product import GgufFormat, OnnxForm, OnnxFormat, choose_precision

from converters.format import Format
from seap_export.errors import UsageError
from seap_export.pipeline.request.export_request import VariantRequest
from seap_export.pipeline.request.mixtures import MixtureSpec, parse_mixtures, parse_support
from seap_export.pipeline.request.whole import whole_models


def test_general_is_of_all_tasks_and_weighs_1_unless_told_otherwise() -> None:
    (mixtures,) = parse_mixtures(["b", "a"], general=True, weights=["b=2.5"], mixes=())
    assert mixtures == MixtureSpec("general", {"a": 1.0, "b": 2.5})


def test_mixes_are_of_the_tasks_they_name() -> None:
    mixtures = parse_mixtures(["a", "b", "c"], general=True, weights=(), mixes=["x=a:3,c", "only-b=b:1e-3"])
    assert [mixture.name for mixture in mixtures] == ["general", "x", "only-b"]
    assert mixtures[1].weights == {"a": 3.0, "c": 1.0}
    assert mixtures[2].weights == {"b": 0.001}


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ("x=a:1,", "weight '' .*: a, b"),
        ("x=a:1,a:2", "task 'a' has two weights; give one"),
        ("x y=a:1", r"mixture name 'x y' cannot name a folder; use up to 64 of A-Z a-z 0-9 - _ \."),
        ("x" * 65 + "=a:1", "cannot name a folder"),
        ("b=a:1", "the name 'b' is "),
        ("A=a:1", "the name 'A' is "),
        ("General=a", "the name 'General' is "),
        ("x", "mixture 'x' is malformed"),
        ("x=a:1,c:1", "'c:1' .* name a task of this run"),
        ("x=a:-1", "weight -1 of task 'a' is out of range"),
    ],
)
def test_mixtures_that_mean_nothing(mix: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_mixtures(["a", "b"], general=True, weights=(), mixes=[mix])
    assert parse_mixtures(["a", "b"], general=False, weights=(), mixes=["x" * 64 + "=a:1"])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (["a=0"], "weight 0 of task 'a' is out of range"),
        (["a=1", "a=2"], "task 'a' has two weights"),
        (["c=2"], "name a task of this run"),
    ],
)
def test_weights_that_mean_nothing(weights: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_mixtures(["a", "b"], general=True, weights=weights, mixes=())


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A corpus in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.txt").write_text("one\n\ntwo\n")
    return "g.txt"


def test_support_has_a_share_of_every_mixture(text: str) -> None:
    support = parse_support(f"{text}:0.25", ["a", "b"])
    assert [sample.text for sample in support.task.texts()] == ["one", "two"]
    assert support.added_to(MixtureSpec("a", {"a": 1.0})) == MixtureSpec("a", {"a": 0.75, "support": 0.25})
    mixed = support.added_to(MixtureSpec("x", {"a": 4.0, "b": 2.0}))
    assert (mixed.name, mixed.weights) == ("x", pytest.approx({"a": 0.5, "b": 0.25, "support": 0.25}))
    assert parse_support(text, ["a"]).share == 0.3


A, BOTH = MixtureSpec("a", {"a": 1.0}), MixtureSpec("both", {"a": 1.0, "b": 1.0})
INT8 = OnnxFormat.of(replace(OnnxFormat("int8").form, logits="last"))


def variant(mixture: MixtureSpec = A, ratio: float = 0.2, *formats: Format) -> VariantRequest:
    return VariantRequest(mixture, ratio, formats or (INT8,), "all")


def names(*variants: VariantRequest) -> list[str]:
    return [model.name for model in whole_models(variants)]


def test_each_task_and_mixture_has_both_precisions_once() -> None:
    expected = ["a-whole-int8", "a-whole-int4", "both-whole-int8", "both-whole-int4"]
    assert names(variant(), variant(A, 0.5), variant(BOTH)) == expected
    assert names() == []


def test_only_beside_our_own_format_on_the_cpu() -> None:
    cuda = OnnxFormat.of(OnnxForm(choose_precision("fp16", "cuda"), provider="cuda"))
    assert names(variant(A, 0.2, GgufFormat("q8_0")), variant(BOTH, 0.2, cuda)) == []
    assert names(variant(A, 0.2, GgufFormat("q8_0"), INT8)) == ["a-whole-int8", "a-whole-int4"]


def test_a_variant_that_is_the_file_stands_for_it() -> None:
    assert names(variant(), variant(A, 0.0)) == ["a-whole-int4"]
    assert names(variant(BOTH), variant(A, 0.0)) == ["both-whole-int8", "both-whole-int4", "a-whole-int4"]
    fewer_tokens = replace(variant(A, 0.0), vocabulary=500)
    assert names(fewer_tokens) == ["a-whole-int8", "a-whole-int4"]
    larger_blocks = OnnxFormat.of(replace(INT8.form, precision=choose_precision("int8", block_size=128)))
    assert names(variant(A, 0.0, larger_blocks)) == ["a-whole-int8", "a-whole-int4"]
