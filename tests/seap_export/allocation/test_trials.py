"""The divergence of a plan that is tried is that of the model which the same texts would give."""

from __future__ import annotations

from pathlib import Path

import pytest
from calibrated import calibrate, divergence, micro_plan, micro_source, random_texts
from pretend_cuda import pretend_cuda
from swept import in_memory, on_disk

import seap_export  # noqa: F401 - registers the pruned families
from seap_export.allocation.texts import draw_texts
from seap_export.allocation.trials import Trials
from seap_export.layers.compute import Compute
from seap_export.shrink.write import write_shrunk_model

TEXTS = random_texts(30)
#: One without norms after a half, one with; and multipliers, which scale what is written.
FAMILIES = ("llama-gqa", "gemma3", "granite")


@pytest.mark.parametrize("variation", FAMILIES)
def test_it_is_the_divergence_of_the_written_model(variation: str, tmp_path: Path) -> None:
    source = micro_source(tmp_path / "dense", variation)
    statistics = calibrate(source, tmp_path / "all", {"boolq": TEXTS})
    texts = draw_texts(statistics)
    assert texts is not None
    plan, folder = micro_plan(source, "sequential"), tmp_path / "variant"
    folder.mkdir()
    fitted = calibrate(source, tmp_path / "fitted", {"boolq": [list(ids) for ids, _ in texts.fitted]})
    write_shrunk_model(source, plan, fitted, folder)
    expected = divergence(tmp_path / "dense", folder, [list(ids) for ids, _ in texts.judged])
    trials = Trials(source, texts, tmp_path, in_memory())
    assert trials.divergence(plan) == pytest.approx(expected, rel=1e-3)
    assert trials.divergence(plan) == trials.divergence(plan)
    assert trials.divergence(micro_plan(source, "sequential", ridge=1e9)) != pytest.approx(expected, rel=1e-2)


def test_wherever_it_is_computed(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "dense")
    texts = draw_texts(calibrate(source, tmp_path / "all", {"boolq": TEXTS}))
    assert texts is not None
    plan = micro_plan(source, "sequential")
    expected = Trials(source, texts, tmp_path, in_memory()).divergence(plan)
    folder = tmp_path / "disk"
    folder.mkdir()
    assert Trials(source, texts, folder, on_disk(source)).divergence(plan) == expected
    assert any(folder.iterdir())
    with pretend_cuda() as device:
        on_gpu = Compute(device, memory=2**40, device_memory=2**40, batch_tokens=64)
        assert Trials(source, texts, tmp_path, on_gpu).divergence(plan) == pytest.approx(expected, rel=1e-4)
