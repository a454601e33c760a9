"""Questions from task files, and the harness's answers against a plain loop and its own class, in every runtime."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.corpora import WORDS, micro_texts
from support.execution import ONE_THREAD, RUN_BY
from support.formats.fake_format import FakeFormat, FakeRunner, install_fake_format
from support.models import write_micro_model
from support.product import Compute, OnnxForm, OnnxFormat
from support.tokenizers import trained_byte_level

from seap_export.corpus import parse_task
from seap_export.corpus.harness import quiet_harness
from seap_export.errors import ArtifactError, EnvironmentFailure, InputError, UsageError
from validation.zero_shot import HarnessTask, Question, evaluate_zero_shot, hub_tasks, local_task, read_questions
from validation.zero_shot.models import open_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support.product import convert_folder

    folder = tmp_path_factory.mktemp("zero_shot")
    write_micro_model(folder / "hf", vocab_size=280, max_position_embeddings=64, model_type="llama")
    tokenizer = trained_byte_level(micro_texts(40), 280, ["<pad>", "<s>", "</s>"])  # some words are several tokens
    tokenizer.save(str(folder / "hf" / "tokenizer.json"))
    (folder / "onnx").mkdir()
    convert_folder(folder / "hf", folder / "onnx")
    return folder


@pytest.fixture(scope="session")
def questions() -> list[Question]:
    """40 questions of 2 to 4 choices, each choice of 1 to 5 words after a space."""
    chance = random.Random(3)
    made = []
    for prompt in micro_texts(40, seed=9):
        number = chance.randint(2, 4)
        choices = tuple(" " + " ".join(chance.choices(WORDS, k=chance.randint(1, 5))) for _ in range(number))
        made.append(Question(prompt, choices, chance.randrange(number)))
    return made


def _requests(task: HarnessTask) -> list[Any]:
    with quiet_harness():
        task.task.build_all_requests()
    return [instance.args for instance in task.task.instances]


@pytest.mark.parametrize("choices", [(" a mat", " it"), (" a", "it"), ("  a", "  it")])
def test_prompts_and_choices_reach_the_model_unchanged(choices: tuple[str, ...]) -> None:
    prompts = ("the cat\n{{ 1 + 1 }} sat:", "choices", " gold ")
    task = local_task("t", [Question(prompt, choices, 1) for prompt in prompts])
    assert _requests(task) == [(prompt, choice) for prompt in prompts for choice in choices]
    # the space in front does not count in acc_norm: -3 / 3 is less than -5.9 / 6, but -3 / 4 is more than -5.9 / 7
    task = local_task("t", [Question("x", (" abc", " abcdef"), 1)])
    results = task.task.process_results(task.task.eval_docs[0], [(-3.0, False), (-5.9, False)])
    assert results == {"acc": 0.0, "acc_norm": 1.0}


class _Manager:
    """Stands in for the harness's list of tasks: `yes_no` is multiple choice with an example, `prose` is not."""

    all_tasks = ("yes_no", "prose", "gone")

    def load(self, names: list[str]) -> dict[str, Any]:
        from datasets import Dataset
        from lm_eval.api.task import ConfigurableTask

        if "gone" in names:
            raise ConnectionError("no route\nto the hub")
        documents = [{"q": f"the {word}", "gold": 0} for word in ("cat", "dog", "mat")]
        config = {
            **{"task": "yes_no", "output_type": "multiple_choice", "validation_split": "validation", "num_fewshot": 1},
            **{"doc_to_text": "q", "doc_to_choice": ["no", "yes"], "doc_to_target": "gold"},
            "custom_dataset": lambda **_: {"validation": Dataset.from_list(documents)},
        }
        tasks = {"yes_no": ConfigurableTask(config=config), "prose": SimpleNamespace(OUTPUT_TYPE="generate_until")}
        return {"tasks": {name: tasks[name] for name in names}}


def test_a_hub_task_is_asked_without_examples(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    monkeypatch.setattr("lm_eval.tasks.TaskManager", _Manager)
    (task,) = hub_tasks(["yes_no"])
    assert (task.name, task.origin, task.split) == ("yes_no", "hub", "validation")
    assert _requests(task)[:2] == [("the cat", " no"), ("the cat", " yes")]
    figures = evaluate_zero_shot(model / "hf", [task], execution=ONE_THREAD, limit=2)["yes_no"]
    assert (figures.questions, figures.chance) == (2, 0.5)
    refusals: dict[str, tuple[Any, str]] = {
        "prose": (UsageError, "'prose' is not multiple choice"),
        "nonsense": (UsageError, "no task 'nonsense'"),
        "gone": (EnvironmentFailure, "the data of gone .*no route to the hub"),
    }
    for name, (kind, words) in refusals.items():
        with pytest.raises(kind, match=words):
            hub_tasks([name])


PIQA = """
corpus = "corpus.jsonl"
prompt = "Question: {goal}\\nAnswer:"
[completion]
choices = [" {sol1}", " {sol2}"]
label = "label"
"""
ARC = """
corpus = "corpus.jsonl"
prompt = "{question}"
[completion]
choices = "choices.text"
labels = "choices.label"
label = "answerKey"
template = " {choice}"
"""
PIQA_RECORDS = [
    {"goal": "g", "sol1": "s", "sol2": "t", "label": 1},
    {"goal": "h", "sol1": "u", "sol2": "u", "label": False},
]


def _arc(text: Any, label: list[str], answer: str = "A") -> dict[str, Any]:
    return {"question": "q", "choices": {"text": text, "label": label}, "answerKey": answer}


def _task(folder: Path, task_file: str, records: list[dict[str, Any]]) -> Any:
    (folder / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    (folder / "task.toml").write_text(task_file, "utf-8")
    return parse_task(f"t={folder / 'task.toml'}")


def test_choices_by_templates_or_a_list_field(tmp_path: Path) -> None:
    task = _task(tmp_path, PIQA, PIQA_RECORDS)
    expected = Question("Question: g\nAnswer:", (" s", " t"), 1), Question("Question: h\nAnswer:", (" u", " u"), 0)
    assert read_questions(task) == expected
    assert read_questions(task, 1) == expected[:1]
    arc = _task(tmp_path, ARC, [_arc(["x", "y", "z"], ["A", "B", "C"], "B")])
    assert read_questions(arc) == (Question("q", (" x", " y", " z"), 1),)
    with pytest.raises(InputError, match="the 2 choices"):
        Question("p", (" a", " b"), 2)


@pytest.mark.parametrize(
    ("task_file", "record", "message"),
    [
        (PIQA, {"goal": "g", "sol1": "s", "sol2": "t", "label": -1}, "line 1: label -1"),
        (PIQA, {"goal": "g", "sol1": "s", "sol2": "", "label": 0}, "line 1: a choice is empty"),
        (ARC, _arc(["x"], ["A"]), "at least two choices"),
        (ARC, _arc("x", ["A"]), "is not a list"),
        (ARC, _arc(["x", "y"], ["A"]), "but 1 labels"),
    ],
)
def test_records_that_give_no_question(tmp_path: Path, task_file: str, record: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_questions(_task(tmp_path, task_file, [record]))


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
    error, error_norm = (math.sqrt(share * (1 - share) / 39) for share in (acc, acc_norm))
    assert (figures.acc, figures.acc_stderr) == pytest.approx((acc, error))
    assert (figures.acc_norm, figures.acc_norm_stderr) == pytest.approx((acc_norm, error_norm))
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
    ("the cat", " sat on the mat"), ("the cat", " sat on a"), ("the cat", " sat on the"), ("the cat ", "ran"),
    ("", "a dog ran"), ("", "<s>a dog"), ("<s>one", " more time"), ("a dog" + TAIL, " far from home"), ("é ☃", " ☃"),
]  # fmt: skip
OPTIONS: dict[str, Any] = {"batch_size": 4, "execution": ONE_THREAD, "on_sequences": lambda done, total: None}
Answers = list[tuple[float, bool]]


def _answered(lm: Any) -> Answers:
    from lm_eval.api.instance import Instance

    asked = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(PAIRS)]
    answers: Answers = lm.loglikelihood(asked, disable_tqdm=True)
    return answers


@pytest.fixture(scope="module")
def of_the_harness(model: Path) -> Answers:
    from lm_eval.models.huggingface import HFLM

    with quiet_harness():
        return _answered(HFLM(str(model / "hf"), "causal", device="cpu", dtype="float32", batch_size=1))


@pytest.mark.parametrize(
    ("form", "options"),
    [
        *((form, {}) for form in ("onnx", "last", "hf", "faked-too")),
        ("faked", {"batch_size": 1}),
        ("hf", {"execution": replace(ONE_THREAD, compute=Compute(memory=1))}),
    ],
)
def test_log_likelihoods_are_those_of_the_harness(
    model: Path, tmp_path: Path, of_the_harness: Answers, form: str, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph may return the last logits alone, and a runtime log-probabilities up to a constant."""
    folder, runtime = model / form, RUN_BY.get(form, form)
    if form not in RUN_BY:
        folder = tmp_path
        install_fake_format(monkeypatch)
        format = OnnxFormat.of(OnnxForm(logits="last")) if form == "last" else FakeFormat()
        format.write(model / "hf", folder, lambda layer: None)
        runtime = "onnxruntime" if form == "last" else form
    with quiet_harness(), open_model(folder, runtime, tokenizer_folder=model / "hf", **{**OPTIONS, **options}) as lm:
        assert lm.max_length == 64
        answers = _answered(lm)
    assert [value for value, _ in answers] == pytest.approx([value for value, _ in of_the_harness], abs=1e-4)
    assert [greedy for _, greedy in answers] == [greedy for _, greedy in of_the_harness]
    assert len({value for value, _ in of_the_harness}) == len(PAIRS)
    assert FakeRunner.opened == 0


def test_a_tokenizer_without_an_end_of_text_is_refused(model: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with (
        pytest.raises(ArtifactError, match="neither a BOS nor an EOS token"),
        open_model(model / "onnx", "onnxruntime", tokenizer_folder=tmp_path, **OPTIONS),
    ):
        pass
