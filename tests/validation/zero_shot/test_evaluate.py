"""The harness's figures against a plain loop over torch logits, and one artifact against the other."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from support.execution import ONE_THREAD, RUN_BY

from seap_export.errors import InputError
from validation.zero_shot import Question, evaluate_zero_shot, local_task


@pytest.fixture(scope="module")
def by_hand(model: Path, questions: list[Question]) -> np.ndarray:
    """Of each question the choice of highest log-likelihood, and of highest log-likelihood a character."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model / "hf")
    network = AutoModelForCausalLM.from_pretrained(model / "hf", dtype=torch.float32).eval()
    chosen = []
    for question in questions:
        start = len(tokenizer(question.prompt).input_ids)
        likelihoods = []
        for choice in question.choices:
            ids = tokenizer(question.prompt + choice).input_ids
            with torch.no_grad():
                log_p = network(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            likelihoods.append(sum(float(log_p[index - 1, ids[index]]) for index in range(start, len(ids))))
        lengths = [len(choice.strip()) for choice in question.choices]
        chosen.append((np.argmax(likelihoods), np.argmax(np.array(likelihoods) / lengths)))
    return np.array(chosen).T


def test_the_figures_are_those_of_a_plain_loop(model: Path, questions: list[Question], by_hand: np.ndarray) -> None:
    """In both forms and all batches; and with a limit those of the first questions."""
    gold, task = [question.gold for question in questions], local_task("t", questions)
    acc, acc_norm = (by_hand == gold).mean(1)
    assert acc != acc_norm  # or the test could not tell them apart
    figures, *others = (
        evaluate_zero_shot(model / form, [task], runtime=RUN_BY[form], batch_size=size, execution=ONE_THREAD)["t"]
        for form, size in (("hf", 1), ("hf", 16), ("onnx", 1), ("onnx", 16))
    )
    assert others == [figures] * 3
    assert (figures.acc, figures.acc_norm) == pytest.approx((acc, acc_norm))
    assert figures.acc_stderr == pytest.approx(math.sqrt(acc * (1 - acc) / 39))
    assert figures.acc_norm_stderr == pytest.approx(math.sqrt(acc_norm * (1 - acc_norm) / 39))
    assert figures.right == tuple((by_hand[0] == gold).tolist())
    assert figures.chance == pytest.approx(float(np.mean([1 / len(question.choices) for question in questions])))
    assert figures.questions == 40
    limited, few = (
        evaluate_zero_shot(model / "hf", [asked], limit=limit, execution=ONE_THREAD)["t"]
        for asked, limit in ((task, 7), (local_task("t", questions[:7]), None))
    )
    assert limited == few
    assert (few.questions, few.sha256 == figures.sha256) == (7, False)


def test_questions_longer_than_the_model_lose_their_beginning(model: Path, questions: list[Question]) -> None:
    """64 positions: what is left of a long prompt is the same in both forms, and decides alone."""
    tail = " the cat sat on the mat and then it ran far from home to see one more time" * 4
    tasks = [
        local_task(name, [Question(start * 40 + tail, q.choices, q.gold) for q in questions[:10]])
        for name, start in (("a", "a dog"), ("b", "one mat"))
    ]
    found = [evaluate_zero_shot(model / form, tasks, runtime=RUN_BY[form], execution=ONE_THREAD) for form in RUN_BY]
    assert len({figures[name].right for figures in found for name in "ab"}) == 1
    task = local_task("t", [Question("the cat", (" sat", " on the mat" * 40), 0)])
    with pytest.raises(InputError, match=r"choice ' on the mat.* tokens.* 1 to 64; "):
        evaluate_zero_shot(model / "hf", [task], execution=ONE_THREAD)
