"""A distilled variant predicts what the dense model predicts better than a shrunk one, wherever it is made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support.calibration import Killed, compute_in_memory, compute_on_disk, die_at, file_contents, mixture_of
from support.corpora import random_token_ids
from support.models import mean_divergence, micro_source
from support.plans import micro_plan, with_settings
from support.product import Compute, Plan, Source, TaskMixture, Vocabulary
from support.stand_ins.cuda import pretend_cuda

import seap_export  # noqa: F401 - registers the pruned families
from seap_export.errors import InputError
from seap_export.model.families import ModelSpec
from seap_export.model.sources import source as source_module
from seap_export.pruning.distillation import texts
from seap_export.pruning.distillation import write as write_module
from seap_export.pruning.distillation.layers import TrainedLayers
from seap_export.pruning.distillation.objectives import Imitation, OuterTensors
from seap_export.pruning.distillation.student import Student
from seap_export.pruning.distillation.texts import training_steps
from seap_export.pruning.distillation.write import variant_units, write_variant

TEXTS = random_token_ids(45)
FRESH = random_token_ids(60, seed=5)
Model = tuple[Source, TaskMixture]


@pytest.fixture(autouse=True, scope="module")
def many_short_steps() -> Iterator[None]:
    """Random weights take longer steps than trained ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "STEP_TOKENS", 128)
        patch.setattr(texts, "_GROUP_TOKENS", 64)
        patch.setattr(write_module, "_RATE", 5e-3)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    work = tmp_path_factory.mktemp("model")
    source = micro_source(work / "dense")
    return source, mixture_of(source, work / "statistics", {"boolq": TEXTS})


def made(folder: Path, model: Model, plan: Plan, compute: Compute | None = None, **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write_variant(model[0], plan, model[1], folder, compute=compute or compute_in_memory(), **options)
    return folder


def test_it_comes_closer_to_the_dense_model_on_a_gpu_too(model: Model, tmp_path: Path) -> None:
    dense, plan = model[0].files[0].parent, micro_plan(model[0], "sequential", distillation=4.0)
    shrunk = made(tmp_path / "shrunk", model, with_settings(plan, distillation=0.0))
    distilled = made(tmp_path / "distilled", model, plan)
    assert mean_divergence(dense, distilled, TEXTS) < 0.9 * mean_divergence(dense, shrunk, TEXTS)
    contents, others = file_contents(distilled), file_contents(shrunk)
    assert contents.keys() == others.keys()
    assert {name for name, value in contents.items() if value != others[name]} == {"model.safetensors"}
    with pretend_cuda() as device:
        compute = Compute(device, device_memory=2**62, batch_tokens=compute_in_memory().batch_tokens)
        assert file_contents(made(tmp_path / "there", model, plan, compute)) == contents


@pytest.mark.parametrize("passes", [0.0, 1.0])
def test_fresh_texts_are_learnt_too(model: Model, tmp_path: Path, passes: float) -> None:
    source, statistics = model
    plan = micro_plan(source, "sequential", distillation=passes)
    plain = made(tmp_path / "plain", model, plan)
    more = statistics.with_fresh({"boolq": FRESH})
    learnt = made(tmp_path / "learnt", (source, more), plan)
    dense = source.files[0].parent
    assert mean_divergence(dense, learnt, FRESH) < 0.95 * mean_divergence(dense, plain, FRESH)
    on_disk = made(tmp_path / "disk", (source, more), plan, compute_on_disk(source))
    assert file_contents(on_disk) == file_contents(learnt)


@pytest.fixture(scope="module")
def undisturbed(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """The files of a run in memory, which those of one on disk equal."""
    plan = micro_plan(model[0], "sequential", distillation=1.0)
    return file_contents(made(tmp_path_factory.mktemp("undisturbed"), model, plan))


@pytest.mark.parametrize(
    ("place", "is_on_disk"),
    [
        ((Student, "train", 3), False),
        ((Student, "train", 3), True),
        ((TrainedLayers, "change", 7), False),
        ((TrainedLayers, "advance", 2), True),
        ((write_module, "write_weights", 0), True),
        ((write_module.shutil, "copyfile", 3), False),
    ],
)
def test_interrupted_anywhere_it_ends_in_the_same_bytes(
    model: Model, undisturbed: Any, tmp_path: Path, place: Any, is_on_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = compute_on_disk(model[0]) if is_on_disk else compute_in_memory()
    plan = micro_plan(model[0], "sequential", distillation=1.0)
    with monkeypatch.context() as patch:
        die_at(patch, *place)
        with pytest.raises(Killed):
            made(tmp_path / "found", model, plan, compute)
    assert file_contents(made(tmp_path / "found", model, plan, compute)) == undisturbed


def test_it_learns_with_a_cut_vocabulary(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dropped tokens may still be read, since the embedding's rows are the dense model's."""
    source, _ = model
    kept, outers = Vocabulary((0, 1, *range(2, 96, 2)), 96), list[OuterTensors]()

    class Seen(Imitation):
        def __init__(self, spec: ModelSpec, outer: OuterTensors, *further: Any) -> None:
            super().__init__(spec, outer, *further)
            outers.append(outer)

    monkeypatch.setattr(write_module, "Imitation", Seen)
    monkeypatch.setattr(source_module, "cut_tokenizer_files", lambda folder, vocabulary: None)
    made(tmp_path / "cut", model, micro_plan(source, "sequential", distillation=2.0, vocabulary=kept))
    (cut,) = outers
    assert torch.equal(cut.head.weight, source.read_head().weight[list(kept.kept)].float())
    assert torch.equal(cut.embedding.tokens, source.read_embedding().tokens.float())


@pytest.mark.parametrize("passes", [0.0, 0.1, 1.0, 3.0])
def test_it_takes_all_passes(model: Model, tmp_path: Path, passes: float, monkeypatch: pytest.MonkeyPatch) -> None:
    source, statistics = model
    plan, calls, learnt, train = micro_plan(source, "sequential", distillation=passes), [], [], Student.train
    monkeypatch.setattr(Student, "train", lambda *given: learnt.append(1) or train(*given))
    made(tmp_path / "out", model, plan, on_unit=calls.append)
    assert len(calls) == variant_units(3, passes, plan.requested_ratio)
    assert len(learnt) == math.ceil(passes * len(training_steps(statistics.token_ids(), compute_in_memory())))
    if passes == 1.0:  # a loss that is not finite stops it
        monkeypatch.setattr(write_module, "_RATE", 1e30)
        with pytest.raises(InputError, match="diverged at step"):
            made(tmp_path / "diverged", model, plan)
