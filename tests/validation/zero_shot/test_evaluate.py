"""The harness's figures against a plain loop over torch logits, and one artifact against the other."""

from __future__ import annotations

import math
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.editing import edit_weights
from support.execution import ONE_THREAD, RUN_BY

from seap_export.errors import ArtifactError, EnvironmentFailure, InputError, UsageError
from validation.zero_shot import Question, ZeroShotFigures, evaluate_zero_shot, local_task


def _by_hand(folder: Path, questions: Sequence[Question]) -> tuple[list[int], list[int]]:
    """The choices of highest log-likelihood, and of highest log-likelihood a character, one sequence at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    chosen, chosen_by_length = [], []
    for question in questions:
        start = len(tokenizer(question.prompt).input_ids)
        likelihoods = []
        for choice in question.choices:
            ids = tokenizer(question.prompt + choice).input_ids
            with torch.no_grad():
                log_p = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            likelihoods.append(sum(float(log_p[index - 1, ids[index]]) for index in range(start, len(ids))))
        lengths = [len(choice.strip()) for choice in question.choices]
        chosen.append(int(np.argmax(likelihoods)))
        chosen_by_length.append(int(np.argmax(np.array(likelihoods) / lengths)))
    return chosen, chosen_by_length


@pytest.fixture(scope="module")
def by_hand(model: Path, questions: list[Question]) -> tuple[list[int], list[int]]:
    return _by_hand(model / "hf", questions)


@pytest.mark.parametrize("form", ["hf", "onnx"])
def test_the_figures_are_those_of_a_plain_loop(
    model: Path, questions: list[Question], by_hand: tuple[list[int], list[int]], form: str
) -> None:
    gold = [question.gold for question in questions]
    acc, acc_norm = (float(np.mean(np.array(choices) == gold)) for choices in by_hand)
    assert acc != acc_norm  # or the test could not tell them apart
    figures = evaluate_zero_shot(
        model / form, [local_task("t", questions)], runtime=RUN_BY[form], execution=ONE_THREAD
    )["t"]
    assert figures.acc == pytest.approx(acc)
    assert figures.acc_norm == pytest.approx(acc_norm)
    assert figures.acc_stderr == pytest.approx(math.sqrt(acc * (1 - acc) / 39))
    assert figures.acc_norm_stderr == pytest.approx(math.sqrt(acc_norm * (1 - acc_norm) / 39))
    assert figures.right == tuple(scores == right for scores, right in zip(by_hand[0], gold, strict=True))
    assert figures.chance == pytest.approx(float(np.mean([1 / len(question.choices) for question in questions])))
    assert figures.questions == 40


@pytest.mark.parametrize("form", ["hf", "onnx"])
def test_the_batch_size_changes_nothing(model: Path, questions: list[Question], form: str) -> None:
    task = local_task("t", questions)
    alone, together = (
        evaluate_zero_shot(model / form, [task], runtime=RUN_BY[form], batch_size=size, execution=ONE_THREAD)
        for size in (1, 16)
    )
    assert alone == together


def test_both_forms_are_asked_the_same_questions(model: Path, questions: list[Question]) -> None:
    task = local_task("t", questions)
    hf = evaluate_zero_shot(model / "hf", [task], execution=ONE_THREAD)["t"]
    onnx = evaluate_zero_shot(model / "onnx", [task], runtime="onnxruntime", execution=ONE_THREAD)["t"]
    assert hf == onnx
    others = local_task("t", [Question(q.prompt + " a", q.choices, q.gold) for q in questions])
    assert evaluate_zero_shot(model / "hf", [others], execution=ONE_THREAD)["t"].sha256 != hf.sha256


def test_limit_asks_the_first_questions(model: Path, questions: list[Question]) -> None:
    limited = evaluate_zero_shot(model / "hf", [local_task("t", questions)], limit=7, execution=ONE_THREAD)["t"]
    first = evaluate_zero_shot(model / "hf", [local_task("t", questions[:7])], execution=ONE_THREAD)["t"]
    assert limited == first
    assert limited.questions == 7


def test_a_single_question_has_no_standard_error(model: Path, questions: list[Question]) -> None:
    figures = evaluate_zero_shot(model / "hf", [local_task("t", questions[:1])], execution=ONE_THREAD)["t"]
    assert (figures.questions, figures.acc_stderr, figures.acc_norm_stderr) == (1, None, None)


@pytest.mark.parametrize("form", ["hf", "onnx"])
def test_one_token_choices_of_a_prompt_share_a_sequence(model: Path, form: str) -> None:
    yes_or_no = [Question(f"the {word} sat", (" on", " a"), 0) for word in ("cat", "dog", "mat")]
    lines: list[str] = []
    evaluate_zero_shot(
        model / form,
        [local_task("t", yes_or_no)],
        runtime=RUN_BY[form],
        execution=ONE_THREAD,
        batch_size=1,
        on_progress=lines.append,
    )
    assert lines == [f"{percent} % of 3 sequences" for percent in (33, 66, 100)]


@pytest.mark.parametrize("form", ["hf", "onnx"])
def test_questions_longer_than_the_model_lose_their_beginning(
    model: Path, questions: list[Question], form: str
) -> None:
    """64 positions: what is left of a long prompt is the same in both forms, and decides alone."""
    tail = " the cat sat on the mat and then it ran far from home to see one more time" * 4
    long = [Question("a dog" * 40 + tail, q.choices, q.gold) for q in questions[:10]]
    other = [Question("one mat" * 40 + tail, q.choices, q.gold) for q in questions[:10]]
    figures = evaluate_zero_shot(
        model / form, [local_task("a", long), local_task("b", other)], runtime=RUN_BY[form], execution=ONE_THREAD
    )
    assert figures["a"].acc == figures["b"].acc


@pytest.mark.parametrize("form", ["hf", "onnx"])
def test_a_choice_longer_than_the_model_is_refused(model: Path, form: str) -> None:
    task = local_task("t", [Question("the cat", (" sat", " on the mat" * 40), 0)])
    with pytest.raises(InputError, match=r"choice ' on the mat.* tokens.* 1 to 64; "):
        evaluate_zero_shot(model / form, [task], runtime=RUN_BY[form], execution=ONE_THREAD)


def test_nothing_is_written_to_the_screen(
    model: Path, questions: list[Question], capfd: pytest.CaptureFixture[str]
) -> None:
    task = local_task("t", questions[:4])
    for form in ("hf", "onnx"):
        evaluate_zero_shot(model / form, [task], runtime=RUN_BY[form], execution=ONE_THREAD)
    assert capfd.readouterr() == ("", "")


def test_weights_that_do_not_fill_the_model_are_refused(
    model: Path, questions: list[Question], tmp_path: Path
) -> None:

    damaged = Path(shutil.copytree(model / "hf", tmp_path / "hf"))
    edit_weights(damaged, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ArtifactError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        evaluate_zero_shot(damaged, [local_task("t", questions)])


@pytest.mark.parametrize("part", ["model.onnx", "genai_config.json", "tokenizer.json"])
def test_missing_parts_of_an_onnx_folder_are_named(
    model: Path, questions: list[Question], tmp_path: Path, part: str
) -> None:
    damaged = Path(shutil.copytree(model / "onnx", tmp_path / "onnx"))
    (damaged / part).unlink()
    with pytest.raises(ArtifactError, match=re.escape(str(damaged))):
        evaluate_zero_shot(damaged, [local_task("t", questions)], runtime="onnxruntime")


def test_arguments_out_of_range_are_refused(model: Path, questions: list[Question]) -> None:
    task = local_task("t", questions)
    for arguments in ({"limit": 0}, {"batch_size": 0}):
        with pytest.raises(UsageError, match="at least 1"):
            evaluate_zero_shot(model / "hf", [task], **arguments)
    for tasks in ([], [task, task]):
        with pytest.raises(UsageError, match="names must be different"):
            evaluate_zero_shot(model / "hf", tasks)


def test_without_the_harness_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, questions: list[Question]) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(EnvironmentFailure, match="run: pip install") as caught:
        local_task("t", questions)
    assert "\n" not in str(caught.value)


def test_a_task_has_questions() -> None:
    with pytest.raises(InputError, match="task 't' has no question"):
        local_task("t", [])


def test_impossible_figures_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="at least one question"):
        ZeroShotFigures(0.5, 0.5, None, None, 0, 0.5, "", ())
    with pytest.raises(ValueError, match="from 0 to 1"):
        ZeroShotFigures(1.5, None, None, None, 1, 0.5, "", (True,))
