"""A model learns right answers, and is kept after the pass that answers unseen texts best."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.calibration import Killed, compute_in_memory, compute_on_disk, die_at, file_contents
from support.models import micro_source, transformers_model
from support.stand_ins.cuda import pretend_cuda

from seap_export.errors import InputError
from seap_export.model.layers.compute import Compute
from seap_export.pruning.distillation import learning
from seap_export.pruning.distillation.layers import TrainedLayers
from seap_export.pruning.distillation.learning import LEARNT, UNITS, AnsweredText, Judged, Learned, learn_answers
from seap_export.pruning.distillation.student import Student

PASSES = 3


def job(seed: int, number: int) -> list[AnsweredText]:
    """Texts whose answer is their second token, twice; nothing in the model knows it."""
    chance, texts = random.Random(seed), []
    for _ in range(number):
        prompt = [1, chance.randrange(10, 14), *(chance.randrange(20, 90) for _ in range(chance.randrange(2, 6))), 2]
        texts.append(AnsweredText((*prompt, prompt[1], prompt[1]), len(prompt)))
    return texts


TEXTS = job(0, 120)


@pytest.fixture(autouse=True, scope="module")
def long_steps() -> Iterator[None]:
    """Random weights take longer steps than trained ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "_RATE", 2e-2)
        yield


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "dense"
    micro_source(folder)
    return folder


def learnt(dense: Path, folder: Path, compute: Compute | None = None, **options: Any) -> Learned:
    if not folder.exists():
        shutil.copytree(dense, folder)
    options = {"texts": TEXTS, "passes": PASSES, **options}
    return learn_answers(folder, compute=compute or compute_in_memory(), **options)


@pytest.fixture(scope="module")
def undisturbed(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "model"
    learnt(dense, folder)
    return folder


@torch.no_grad()
def share_right(folder: Path, texts: list[AnsweredText]) -> float:
    """The fraction of the texts whose answer transformers' own class finds likeliest."""
    model, right = transformers_model(folder), 0
    for text in texts:
        likeliest = model(torch.tensor([text.ids[:-1]]), use_cache=False).logits[0, text.first - 1 :].argmax(-1)
        right += likeliest.tolist() == list(text.ids[text.first :])
    return right / len(texts)


def test_it_answers_texts_that_it_has_not_seen(dense: Path, undisturbed: Path) -> None:
    others = [text for text in job(1, 200) if text not in TEXTS]
    assert share_right(undisturbed, others) > 0.8 > 0.2 > share_right(dense, others)
    learned = Learned.read(undisturbed / LEARNT)
    assert len(learned.passes) == PASSES + 1
    judging = sorted(TEXTS, key=learning._digest)[: len(set(TEXTS)) // 10]
    assert learned.passes[0].right == pytest.approx(share_right(dense, judging))
    assert learned.passes[learned.best].right == pytest.approx(share_right(undisturbed, judging))
    before, after = file_contents(dense), file_contents(undisturbed)
    assert {name for name in after if after[name] != before.get(name)} == {"model.safetensors", LEARNT}


def test_neither_order_nor_place_changes_a_byte(dense: Path, undisturbed: Path, tmp_path: Path) -> None:
    learnt(dense, tmp_path / "shuffled", texts=[*reversed(TEXTS), TEXTS[0]])
    learnt(dense, tmp_path / "disk", compute_on_disk(micro_source(tmp_path / "same")))
    with pretend_cuda() as device:
        learnt(dense, tmp_path / "cuda", Compute(device, 2**62, batch_tokens=compute_in_memory().batch_tokens))
    for name in ("shuffled", "disk", "cuda"):
        assert file_contents(tmp_path / name) == file_contents(undisturbed), name


@pytest.mark.parametrize(
    "place",
    [
        (Student, "train", 20),
        (TrainedLayers, "advance", 30),
        (learning, "write_weights", 1),
        (learning, "keep", 2),  # a record
        (learning, "keep", 4),  # the weights are written
        (learning, "keep", 5),  # and replaced
        (learning.shutil, "rmtree", 0),
    ],
)
def test_interrupted_anywhere_it_ends_in_the_same_bytes(
    dense: Path, undisturbed: Path, tmp_path: Path, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        die_at(patch, *place)
        with pytest.raises(Killed):
            learnt(dense, tmp_path / "model")
    units: list[object] = []
    learned = learnt(dense, tmp_path / "model", on_unit=units.append)
    assert file_contents(tmp_path / "model") == file_contents(undisturbed)
    assert learned == Learned.read(undisturbed / LEARNT)


def test_a_pass_that_makes_it_worse_is_not_kept(
    dense: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tmp_path / "good"
    shutil.copytree(undisturbed, good)
    (good / LEARNT).unlink()
    monkeypatch.setattr(learning, "_RATE", 5.0)
    learned = learnt(good, tmp_path / "model", passes=1)
    assert learned.best == 0
    assert file_contents(tmp_path / "model") == {
        **file_contents(good),
        LEARNT: (tmp_path / "model" / LEARNT).read_bytes(),
    }
    monkeypatch.setattr(learning, "_RATE", 1e30)
    with pytest.raises(InputError, match="learning diverged at step"):
        learnt(dense, tmp_path / "diverged")


def test_it_ends_early_when_nothing_is_left_to_win(
    dense: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = Learned.read(undisturbed / LEARNT).passes
    monkeypatch.setattr(Judged, "is_settled", property(lambda judged: judged.right == passes[1].right))
    units: list[object] = []
    assert learnt(dense, tmp_path / "model", on_unit=units.append).passes == passes[:2]
    assert len(units) == PASSES * UNITS
    monkeypatch.undo()
    assert [Judged(*of).is_settled for of in ((1.0, 0.01), (1.0, 0.5), (0.9, 0.01))] == [True, False, False]


def test_an_answer_needs_a_token_and_something_before_it() -> None:
    for first in (0, 3):
        with pytest.raises(ValueError, match="an answer from token"):
            AnsweredText((1, 2, 3), first)
