"""Generated answers against a plain loop over torch logits, in both forms, alone and in batches."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.corpora import micro_texts
from support.editing import edit_weights
from support.execution import ONE_THREAD, RUN_BY
from support.models import COMPLETION_STEPS, WRONG_EVERY, Completion
from support.tokenizers import add_chat_template
from tokenizers import AddedToken, Tokenizer

from seap_export.corpus import AnswerRule
from seap_export.errors import ArtifactError, InputError
from validation.generation import OpenQuestion, OpenTask, evaluate_generation


def _asked(folder: Path, task: OpenTask, form: str = "hf", **options: Any) -> Any:
    options = {"max_new_tokens": COMPLETION_STEPS, "execution": ONE_THREAD, **options}
    return evaluate_generation(folder, [task], runtime=RUN_BY[form], **options)[task.name]


@pytest.mark.parametrize(("form", "batch_size"), [("hf", 5), ("onnx", 1), ("onnx", 5)])
def test_texts_and_figures_are_those_of_a_plain_loop(
    model: Path, task: OpenTask, written: list[Completion], form: str, batch_size: int
) -> None:
    """Every text, whatever it is padded to; and every planted wrong answer is found."""
    figures = _asked(model / form, task, form, batch_size=batch_size)
    assert [answer.text for answer in figures.answers] == [answer.text for answer in written]
    assert [answer.prompt for answer in figures.answers] == [question.prompt for question in task.questions]
    assert [answer.tokens for answer in figures.answers] == [len(answer.tokens) for answer in written]
    assert [answer.is_stopped for answer in figures.answers] == [answer.is_ended for answer in written]
    answered = [task.rule.find(answer.text) is not None for answer in written]
    right = [index % WRONG_EVERY != 0 and answer for index, answer in enumerate(answered)]
    assert figures.right == tuple(right)
    share = sum(right) / len(right)
    assert 0 < share < 1
    assert figures.exact_match == pytest.approx(share)
    assert figures.exact_match_stderr == pytest.approx(math.sqrt(share * (1 - share) / (len(right) - 1)))
    assert figures.mean_tokens == pytest.approx(np.mean([len(answer.tokens) for answer in written]))
    assert figures.never_stopped == pytest.approx(np.mean([not answer.is_ended for answer in written]))
    assert figures.unanswered == pytest.approx(1 - np.mean(answered))


@pytest.mark.parametrize("form", ["hf", "onnx"])
def test_a_text_ends_before_a_stop(model: Path, task: OpenTask, written: list[Completion], form: str) -> None:
    """The first word of the third place of some text; its tokens count, what follows is not generated."""
    index, stop = next(
        (index, completion.text.split()[2])
        for index, completion in enumerate(written)
        if len(completion.text.split()) > 3
    )
    figures = _asked(model / form, replace(task, rule=replace(task.rule, stop=(f" {stop}",))), form)
    text = written[index].text
    assert figures.answers[index].text == text[: text.index(f" {stop}")]
    assert figures.answers[index].is_stopped
    assert figures.answers[index].tokens < len(written[index].tokens)
    for completion, answer in zip(written, figures.answers, strict=True):
        assert f" {stop}" not in answer.text
        assert completion.text.startswith(answer.text)


def test_the_end_of_a_turn_ends_a_text(model: Path, task: OpenTask, written: list[Completion], tmp_path: Path) -> None:
    """The chat template alone says that `home` is one."""
    index = next(index for index, completion in enumerate(written) if " home" in completion.text)
    folder = add_chat_template(Path(shutil.copytree(model / "hf", tmp_path / "hf")))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("home", special=True, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    answer = _asked(folder, task).answers[index]
    assert answer.text == written[index].text.partition(" home")[0]
    assert answer.is_stopped


@pytest.mark.parametrize("form", ["hf", "onnx"])
def test_prompts_near_the_end_of_the_context_run_alone(model: Path, form: str) -> None:
    """64 positions: a long prompt gets what is left, and the others get what they would get without it."""
    texts = [*micro_texts(4, seed=8), " ".join(micro_texts(8, seed=3)).split(" a")[0]]
    long = " ".join((" ".join(micro_texts(8, seed=3))).split()[:60])
    questions = tuple(OpenQuestion(text, " cat", "cat") for text in [*texts[:4], long])
    together = _asked(model / form, OpenTask("t", AnswerRule("(cat)"), questions), form)
    apart = [_asked(model / form, OpenTask("t", AnswerRule("(cat)"), (answer,)), form) for answer in questions]
    assert [answer.text for answer in together.answers] == [answer.answers[0].text for answer in apart]
    assert together.answers[-1].tokens <= 4
    too_long = replace(questions[-1], prompt=f"{long} the cat sat on")
    with pytest.raises(InputError, match=r"the prompt .* has 64 tokens.* context is 64; "):
        _asked(model / form, OpenTask("t", AnswerRule("(cat)"), (too_long,)), form)


def test_a_model_that_computes_nan_is_refused(model: Path, task: OpenTask, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(model / "hf", tmp_path / "hf"))
    edit_weights(damaged, lambda weights: weights["model.norm.weight"].fill_(float("nan")))
    with pytest.raises(ArtifactError, match=f"{damaged}: its logits are NaN"):
        _asked(damaged, task)
