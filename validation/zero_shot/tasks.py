"""Tasks of the lm-evaluation-harness, from local questions or from the hub.

Source: Gao et al., "A framework for few-shot language model evaluation",
https://github.com/EleutherAI/lm-evaluation-harness. All tasks are run without few-shot examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from seap_export.corpus.harness import load_harness_tasks, quiet_harness, require_harness
from seap_export.errors import InputError, UsageError
from validation.zero_shot.questions import Question

_SEED = 0  # of the harness's choice of few-shot examples; none are used
_METRICS = ("acc", "acc_norm")


@dataclass(frozen=True)
class HarnessTask:
    """A multiple-choice task that can be run on any number of models.

    Attributes:
        origin: `file` for local questions, `hub` for a task of the harness.
        split: The evaluated split of the harness's data set; None for local questions.
        task: The harness's `Task`.
    """

    name: str
    origin: Literal["file", "hub"]
    split: str | None
    task: Any

    def __post_init__(self) -> None:
        if (self.split is None) != (self.origin == "file"):
            raise ValueError("a hub task has a split, a local one has none")


def local_task(name: str, questions: Sequence[Question]) -> HarnessTask:
    """Makes a harness task of local questions, scored like the harness's multiple-choice tasks.

    If every choice begins with a space, that space is the harness's delimiter and does not count in the length for
    `acc_norm`, as in the harness's tasks.

    Raises:
        InputError: There are no questions.
    """
    if not questions:
        raise InputError(f"task '{name}' has no questions; use another corpus")
    require_harness()
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    delimiter = " " if all(choice.startswith(" ") for question in questions for choice in question.choices) else ""
    documents = [
        {
            "prompt": question.prompt,
            "choices": [choice.removeprefix(delimiter) for choice in question.choices],
            "gold": question.gold,
        }
        for question in questions
    ]
    config = {
        "task": name,
        "output_type": "multiple_choice",
        "custom_dataset": lambda **_: {"test": Dataset.from_list(documents)},
        "test_split": "test",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": delimiter,
        "num_fewshot": 0,
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in _METRICS],
    }
    with quiet_harness():
        task = ConfigurableTask(config=config)
    task.set_fewshot_seed(_SEED)
    return HarnessTask(name, "file", None, task)


def hub_tasks(names: Sequence[str]) -> list[HarnessTask]:
    """Loads multiple-choice tasks of the harness by name and downloads their data; a group gives all its tasks.

    Raises:
        UsageError: The harness has no such task, or one of another kind than multiple choice.
        EnvironmentFailure: The harness is not installed, or the data cannot be loaded.
    """
    return [_hub_task(name, task) for name, task in load_harness_tasks(names).items()]


def _hub_task(name: str, task: Any) -> HarnessTask:
    if task.OUTPUT_TYPE != "multiple_choice":
        raise UsageError(f"harness task '{name}' is not multiple choice ({task.OUTPUT_TYPE}); choose another task")
    task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(_SEED)
    split = task.config.test_split if task.has_test_docs() else task.config.validation_split
    return HarnessTask(name, "hub", split, task)
