"""A micro model as a model folder and as an ONNX folder, and a task of what it answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.corpora import micro_texts
from support.models import WRONG_EVERY, Completion, greedy_completions, write_micro_model

from seap_export.corpus import AnswerRule
from validation.generation import OpenQuestion, OpenTask

PROMPTS = micro_texts(12, seed=4)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `hf` and `onnx`; not to be changed."""
    from support.product import convert_folder

    folder = tmp_path_factory.mktemp("generation")
    write_micro_model(folder / "hf", max_position_embeddings=64, model_type="llama")
    (folder / "onnx").mkdir()
    convert_folder(folder / "hf", folder / "onnx")
    return folder


@pytest.fixture(scope="session")
def written(model: Path) -> list[Completion]:
    """What the model writes after each of twelve prompts of 4 to 24 words: some texts end, others do not."""
    completions = greedy_completions(model / "hf", PROMPTS)
    assert {completion.is_ended for completion in completions} == {True, False}  # or a test could not tell them apart
    return completions


@pytest.fixture(scope="session")
def task(written: list[Completion]) -> OpenTask:
    """The right answers are the model's first words, but for each third question."""
    rule = AnswerRule(r"(\S+)")
    answers = [rule.find(completion.text) or "nothing" for completion in written]
    questions = [
        OpenQuestion(prompt, f" {gold}", "planted" if index % WRONG_EVERY == 0 else gold)
        for index, (prompt, gold) in enumerate(zip(PROMPTS, answers, strict=True))
    ]
    return OpenTask("t", rule, tuple(questions))
