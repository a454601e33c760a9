"""Questions from task files, and what the harness is given for them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.execution import ONE_THREAD

from seap_export.corpus import parse_task
from seap_export.corpus.harness import quiet_harness
from seap_export.errors import EnvironmentFailure, InputError, UsageError
from validation.zero_shot import HarnessTask, Question, evaluate_zero_shot, hub_tasks, local_task, read_questions


def _requests(task: HarnessTask) -> list[Any]:
    with quiet_harness():
        task.task.build_all_requests()
    return [instance.args for instance in task.task.instances]


@pytest.mark.parametrize("choices", [(" a mat", " it"), (" a", "it"), ("  a", "  it")])
def test_prompts_and_choices_reach_the_model_unchanged(choices: tuple[str, ...]) -> None:
    prompts = ("the cat\n{{ 1 + 1 }} sat:", "choices", " gold ")
    task = local_task("t", [Question(prompt, choices, 1) for prompt in prompts])
    assert _requests(task) == [(prompt, choice) for prompt in prompts for choice in choices]


def test_the_space_in_front_does_not_count_in_acc_norm() -> None:
    """-3 / 3 is less than -5.9 / 6, but -3 / 4 is more than -5.9 / 7."""
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
