"""What a search is said to take, before it begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from support.product import (
    ExportRequest,
    FormatStep,
    OnnxFormat,
    QualityStep,
    Targets,
    Vocabulary,
    Workload,
)
from support.variations import micro_config

from converters.format import Format
from seap_export.corpus import Task
from seap_export.model.families import model_spec
from seap_export.pipeline.budget.preview import first_candidates, search_work

SPEC = model_spec(micro_config(model_type="llama", vocab_size=1000))
KEPT = {"a": Vocabulary(tuple(range(100)), 1000), "b": Vocabulary(tuple(range(300)), 1000)}
DENSE = OnnxFormat("fp32").size(SPEC)


class _Weights(Workload):
    """Folders that hold weights alone."""

    def beside_weights(self, format: Format) -> int:
        return 0


WEIGHTS = _Weights(SPEC, torch.float32)


def asked(vocabulary: Literal["auto", "all"] | int, targets: Targets) -> ExportRequest:
    tasks = tuple(Task(name, Path(f"{name}.jsonl")) for name in KEPT)
    return ExportRequest(tasks, (), formats=(OnnxFormat("fp32"),), targets=targets, vocabulary=vocabulary)


@pytest.mark.parametrize("targets", [Targets(max_kl=0.1), Targets(size=DENSE * 2)], ids=["KL", "size"])
def test_a_candidate_counts_with_the_tokens_that_it_keeps(targets: Targets) -> None:
    parts = search_work(SPEC, asked("auto", targets), KEPT, WEIGHTS)
    for step in (FormatStep, QualityStep):
        works = {(part.tasks, part.vocabulary) for part in parts if part.cost is step.cost}
        assert works == {((name,), kept) for name in KEPT for kept in (None, KEPT[name])}, step


def test_of_several_precisions_the_most_promising_is_pruned_first() -> None:
    """Where no file mixes bits, each of them could be pruned until it fits."""
    spec = model_spec(micro_config(model_type="llama", intermediate_size=1000))
    formats = tuple(OnnxFormat(name) for name in ("fp32", "int8", "int4"))
    request = replace(asked("all", Targets(size=formats[-1].size(spec) * 9 // 10)), formats=formats)
    tried = first_candidates(spec, request, {}, _Weights(spec, torch.float32))
    pruned = [candidate for candidate in tried if not candidate["variant"].endswith("-0")]
    assert [candidate["precision"] for candidate in pruned] == ["int4"] * len(KEPT)
    assert all(candidate["fits"] for candidate in pruned)
