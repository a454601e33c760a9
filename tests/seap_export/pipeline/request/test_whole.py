"""Which whole models are measured beside variants."""

from __future__ import annotations

from dataclasses import replace

from support.product import GgufFormat, MixtureSpec, OnnxForm, OnnxFormat, choose_precision

from converters.format import Format
from seap_export.pipeline.request.export_request import VariantRequest
from seap_export.pipeline.request.whole import whole_models

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
