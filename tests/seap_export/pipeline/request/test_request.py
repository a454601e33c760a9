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


def test_mixtures_are_of_all_tasks_or_of_those_that_they_name() -> None:
    weights, mixes = ["b=2.5"], ["x=a:3,c", "only-b=b:1e-3", "x" * 64 + "=a:1"]
    general, x, only_b, _ = parse_mixtures(["c", "b", "a"], general=True, weights=weights, mixes=mixes)
    assert general == MixtureSpec("general", {"a": 1.0, "b": 2.5, "c": 1.0})
    assert x == MixtureSpec("x", {"a": 3.0, "c": 1.0})
    assert only_b == MixtureSpec("only-b", {"b": 0.001})


@pytest.mark.parametrize(
    ("weights", "mix", "message"),
    [
        ([], "x=a:1,", "weight '' .*: a, b"),
        ([], "x=a:1,a:2", "task 'a' has two weights; give one"),
        ([], "x y=a:1", r"mixture name 'x y' cannot name a folder; use up to 64 of A-Z a-z 0-9 - _ \."),
        ([], "x" * 65 + "=a:1", "cannot name a folder"),
        *(([], f"{name}=a:1", f"the name '{name}' is ") for name in ("b", "A", "General")),
        ([], "x", "mixture 'x' is malformed"),
        ([], "x=a:1,c:1", "'c:1' .* name a task of this run"),
        ([], "x=a:-1", "weight -1 of task 'a' is out of range"),
        (["a=0"], "x=a", "weight 0 of task 'a' is out of range"),
        (["a=1", "a=2"], "x=a", "task 'a' has two weights"),
        (["c=2"], "x=a", "name a task of this run"),
    ],
)
def test_mixtures_that_mean_nothing(weights: list[str], mix: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_mixtures(["a", "b"], general=True, weights=weights, mixes=[mix])


def test_support_has_a_share_of_every_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.txt").write_text("one\n\ntwo\n")
    support = parse_support("g.txt:0.25")
    assert [sample.text for sample in support.task.texts()] == ["one", "two"]
    assert support.added_to(MixtureSpec("a", {"a": 1.0})) == MixtureSpec("a", {"a": 0.75, "support": 0.25})
    mixed = support.added_to(MixtureSpec("x", {"a": 4.0, "b": 2.0}))
    assert (mixed.name, mixed.weights) == ("x", pytest.approx({"a": 0.5, "b": 0.25, "support": 0.25}))
    assert parse_support("g.txt").share == 0.3


A, BOTH = MixtureSpec("a", {"a": 1.0}), MixtureSpec("both", {"a": 1.0, "b": 1.0})
INT8 = OnnxFormat.of(replace(OnnxFormat("int8").form, logits="last"))


def variant(mixture: MixtureSpec = A, ratio: float = 0.2, *formats: Format) -> VariantRequest:
    return VariantRequest(mixture, ratio, formats or (INT8,), "all")


GGUF = GgufFormat("q8_0")
CUDA = OnnxFormat.of(OnnxForm(choose_precision("fp16", "cuda"), provider="cuda"))
LARGER_BLOCKS = OnnxFormat.of(replace(INT8.form, precision=choose_precision("int8", block_size=128)))
OF_A, OF_BOTH = (f"{name}-whole-int8 {name}-whole-int4" for name in ("a", "both"))


@pytest.mark.parametrize(
    ("variants", "expected"),
    [
        ([], ""),
        ([variant(), variant(A, 0.5), variant(BOTH)], f"{OF_A} {OF_BOTH}"),  # each task has both precisions once
        ([variant(A, 0.2, GGUF), variant(BOTH, 0.2, CUDA)], ""),  # only beside our own format on the CPU
        ([variant(A, 0.2, GGUF, INT8)], OF_A),
        ([variant(), variant(A, 0.0)], "a-whole-int4"),  # a variant that is the file stands for it
        ([variant(BOTH), variant(A, 0.0)], f"{OF_BOTH} a-whole-int4"),
        ([variant(), replace(variant(A, 0.0), vocabulary=500)], OF_A),
        ([variant(), variant(A, 0.0, LARGER_BLOCKS)], OF_A),
    ],
)
def test_which_whole_models_stand_beside_variants(variants: list[VariantRequest], expected: str) -> None:
    assert " ".join(model.name for model in whole_models(variants)) == expected


def test_a_variant_that_has_learnt_stands_for_no_whole_model() -> None:
    variants = [variant(), variant(A, 0.0), variant(BOTH, 0.0)]
    names = [" ".join(model.name for model in whole_models(variants, learnt)) for learnt in (["b"], ["a"], ["c"])]
    assert names == [f"a-whole-int4 {OF_BOTH}", f"{OF_A} {OF_BOTH}", "a-whole-int4 both-whole-int4"]
