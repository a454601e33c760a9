from __future__ import annotations

from pathlib import Path

import pytest
from support.product import GENERAL_TEXT, MOST_TEXTS, ExportRequest, MixtureSpec, Silent, Workspace, open_source

from seap_export.corpus import Sample, Split, Task
from seap_export.pipeline.cost.workload import at_most
from seap_export.pipeline.export import plan_export
from seap_export.pipeline.prepared import prepare
from seap_export.pipeline.request.whole import PRECISIONS
from seap_export.pipeline.steps.joint.quality import QualityStep
from seap_export.pipeline.steps.planned_work import PlannedWork, token_counts


def _samples(name: str, number: int) -> tuple[Sample, ...]:
    """Texts of 10 letters, which are 11 tokens at most."""
    return tuple(Sample("", f"{name}{index:09}") for index in range(number))


def test_quality_counts_a_few_texts_of_the_others_and_the_general_text() -> None:
    splits = {
        name: Split(_samples(name, 20), _samples(name.upper(), number)) for name, number in (("a", 16), ("b", 3))
    }
    sizes = token_counts(splits, _samples("g", 5), 512, at_most)
    assert (sizes["a"].held_out_tokens, sizes["a"].shared_tokens) == (16 * 11, MOST_TEXTS * 11)
    assert (sizes["b"].held_out_tokens, sizes["b"].shared_tokens) == (3 * 11, 3 * 11)
    assert sizes[GENERAL_TEXT].shared_tokens == 5 * 11
    first = PlannedWork(QualityStep.cost, ("a",), 0.2, others=("b", GENERAL_TEXT)).tokens(sizes)
    assert first.held_out_tokens == (16 + 3 + 5) * 11
    assert first.calibration_tokens == 20 * 11
    other = PlannedWork(QualityStep.cost, ("b",), 0.2, others=("a", GENERAL_TEXT)).tokens(sizes)
    assert other.held_out_tokens == (3 + 8 + 5) * 11
    assert token_counts(splits, (), 512, at_most)[GENERAL_TEXT].shared_tokens == 0


@pytest.mark.parametrize("quality", [True, False])
def test_the_parts_of_quality(inputs: Path, tmp_path: Path, quality: bool) -> None:
    """Each variant runs the texts of its tasks, and a few of all others; the dense model all texts once."""
    tasks = tuple(Task(name, inputs / f"{name}.jsonl") for name in ("a", "b"))
    both = MixtureSpec("both", {"a": 1.0, "b": 1.0})
    request = ExportRequest(tasks, (0.4,), (both,), quality=quality, speed=False)
    workspace = Workspace(tmp_path / "out", force=False)
    prepared = prepare(open_source(str(inputs / "m")), request, workspace, Silent())
    planned = plan_export(prepared, workspace)
    parts = [(part.tasks, part.ratio, part.others) for part in planned.planned_work if part.cost is QualityStep.cost]
    assert len(prepared.general) == (MOST_TEXTS if quality else 0)
    assert (
        parts
        == [
            (("a",), 0.4, ("b", GENERAL_TEXT)),
            (("b",), 0.4, ("a", GENERAL_TEXT)),
            (("a", "b"), 0.4, (GENERAL_TEXT,)),
            *((tasks, 0.0, ()) for tasks in (("a",), ("b",), ("a", "b")) for _ in PRECISIONS),
            (("a", "b"), 0.0, (GENERAL_TEXT,)),
        ][: 10 * quality]
    )
