"""The harness's figures and log-likelihoods against a plain loop and its own class, in every runtime."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.execution import ONE_THREAD, RUN_BY
from support.formats.fake_format import FakeFormat, FakeRunner, install_fake_format
from support.product import Compute, OnnxForm, OnnxFormat

from converters.formats import parse_format
from seap_export.errors import ArtifactError, InputError
from validation.zero_shot import Question, evaluate_zero_shot, local_task
from validation.zero_shot.models import open_model
from validation.zero_shot.tasks import quiet_harness


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


TAIL = " the cat sat on the mat and then it ran far from home to see one more time" * 8
PAIRS = [
    ("the cat", " sat on the mat"),
    ("the cat", " sat on a"),
    ("the cat", " sat on the"),
    ("the cat ", "ran"),
    ("", "a dog ran"),
    ("", "<s>a dog"),
    ("<s>one", " more time"),
    ("a dog" + TAIL, " far from home"),
    ("é ☃", " ☃"),
]


RUNTIMES = {
    "gguf:f32": "llama.cpp", "openvino:fp32": "openvino", "litert:fp32": "litert", "executorch:fp32": "executorch",
    "web:fp32": "transformers.js", "mlx:fp32": "mlx-lm",
}  # fmt: skip
QUICK = ("gguf:f32", "litert:fp32")
Answers = list[tuple[float, bool]]


def _requests() -> list[Any]:
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=index) for index, pair in enumerate(PAIRS)
    ]


def _options(batch_size: int, compute: Compute | None = None) -> dict[str, Any]:
    execution = replace(ONE_THREAD, compute=compute)
    return {"batch_size": batch_size, "execution": execution, "on_sequences": lambda done, total: None}


def _answers(model: Path, folder: Path, runtime: Any, batch_size: int, compute: Compute | None = None) -> Answers:
    options = _options(batch_size, compute)
    with quiet_harness(), open_model(folder, runtime, tokenizer_folder=model / "hf", **options) as lm:
        assert lm.max_length == 64
        answers: Answers = lm.loglikelihood(_requests(), disable_tqdm=True)
    return answers


@pytest.fixture(scope="module")
def of_the_harness(model: Path) -> Answers:
    from lm_eval.models.huggingface import HFLM

    with quiet_harness():
        lm = HFLM(pretrained=str(model / "hf"), device="cpu", dtype="float32", batch_size=1, backend="causal")
        answers: Answers = lm.loglikelihood(_requests(), disable_tqdm=True)
    return answers


@pytest.mark.parametrize(
    ("form", "options"),
    [("onnx", {}), ("last", {}), ("hf", {}), ("hf", {"compute": Compute(memory=1)}), ("faked", {}), ("faked-too", {})],
)
def test_log_likelihoods_are_those_of_the_harness(
    model: Path, tmp_path: Path, of_the_harness: Answers, form: str, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trailing spaces, no prompt, special tokens in texts, more tokens than positions, bytes.

    A graph may return the last logits alone, and a runtime log-probabilities up to a constant.
    """
    folder, runtime = model / form, RUN_BY.get(form, form)
    if form not in RUN_BY:
        folder = tmp_path
        install_fake_format(monkeypatch)
        format = OnnxFormat.of(OnnxForm(logits="last")) if form == "last" else FakeFormat()
        format.write(model / "hf", folder, lambda layer: None)
        runtime = "onnxruntime" if form == "last" else form
    answers = _answers(model, folder, runtime, 1 if form == "faked" else 4, **options)
    assert [value for value, _ in answers] == pytest.approx([value for value, _ in of_the_harness], abs=1e-4)
    assert [greedy for _, greedy in answers] == [greedy for _, greedy in of_the_harness]
    assert len({value for value, _ in of_the_harness}) == len(PAIRS)
    assert FakeRunner.opened == 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.needs(needed), *([] if name in QUICK else [pytest.mark.full])])
        for name, needed in RUNTIMES.items()
    ],
)
def test_a_real_runtime_gives_the_same(model: Path, tmp_path: Path, of_the_harness: Answers, name: str) -> None:
    format, precision = parse_format(name)
    format(str(precision)).write(model / "hf", tmp_path, lambda layer: None)
    answers = _answers(model, tmp_path, format.runtimes[0], 4)
    assert [value for value, _ in answers] == pytest.approx([value for value, _ in of_the_harness], abs=2e-3)


def test_a_tokenizer_without_an_end_of_text_is_refused(model: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with (
        pytest.raises(ArtifactError, match="neither a BOS nor an EOS token"),
        open_model(model / "onnx", "onnxruntime", tokenizer_folder=tmp_path, **_options(1)),
    ):
        pass
