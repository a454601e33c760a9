"""Tasks of the lm-evaluation-harness, from local questions or from the hub.

Source: Gao et al., "A framework for few-shot language model evaluation",
https://github.com/EleutherAI/lm-evaluation-harness. All tasks are run without few-shot examples.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from seap_export.errors import EnvironmentFailure, InputError, UsageError
from validation.torch_runner import quiet_transformers
from validation.zero_shot.questions import Question

__all__ = ["HarnessTask", "hub_tasks", "local_task", "quiet_harness", "require_harness"]

_SEED = 0  # of the harness's choice of few-shot examples; none are used
_METRICS = ("acc", "acc_norm")


@dataclass(frozen=True)
class HarnessTask:
    """A multiple-choice task that can be run on any number of models.

    Attributes:
        name: Name in results.
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


def require_harness() -> None:
    """Checks that the lm-evaluation-harness is installed.

    Raises:
        EnvironmentFailure: It is not installed or cannot be imported.
    """
    try:
        import accelerate  # noqa: F401 - needed by the harness's model class
        import lm_eval  # noqa: F401
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise EnvironmentFailure(
            f"zero-shot tasks need lm-eval ({reason}); install it with: pip install 'seap-export[evaluate]'"
        ) from error


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
        UsageError: The harness has no such task, or it is not multiple choice.
        EnvironmentFailure: The harness is not installed, or the data cannot be downloaded.
    """
    require_harness()
    from lm_eval.tasks import TaskManager

    with quiet_harness():
        manager = TaskManager()
        for name in names:
            if name not in manager.all_tasks:
                raise UsageError(f"the lm-evaluation-harness has no task '{name}'; 'lm-eval ls tasks' lists them")
        loaded = _load(manager, names)
    return [_hub_task(name, task) for name, task in loaded.items()]


def _load(manager: Any, names: Sequence[str]) -> dict[str, Any]:
    try:
        tasks: dict[str, Any] = manager.load(list(names))["tasks"]
    except MemoryError:
        raise
    except Exception as error:  # the hub clients' errors share no useful base class across their releases
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EnvironmentFailure(
            f"the data of {', '.join(names)} cannot be downloaded ({reason:.200}); use --zero-shot with local files"
        ) from error
    return tasks


def _hub_task(name: str, task: Any) -> HarnessTask:
    if task.OUTPUT_TYPE != "multiple_choice":
        raise UsageError(f"harness task '{name}' is not multiple choice ({task.OUTPUT_TYPE}); choose another task")
    task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(_SEED)
    split = task.config.test_split if task.has_test_docs() else task.config.validation_split
    return HarnessTask(name, "hub", split, task)


@contextlib.contextmanager
def quiet_harness() -> Iterator[None]:
    """Silences the harness's progress bars, notices and warnings; important problems raise an exception."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with (
            quiet_transformers(),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            yield
    finally:
        logger.setLevel(level)
