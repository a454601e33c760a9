"""Corpora that are downloaded: data sets of the Hugging Face hub, and tasks of the lm-evaluation-harness.

Only training data are used: the validation split if there is no training split, and never the test split.
Since release 4, the `datasets` library runs no code shipped with a data set.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from seap_export.common.extras import install_remedy
from seap_export.corpus.harness import load_harness_tasks, quiet_harness, refuse_unknown_harness_tasks
from seap_export.errors import EnvironmentFailure, InputError

_ID_PART = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
_HUB_ID = re.compile(rf"{_ID_PART}/{_ID_PART}(:{_ID_PART})?")
_HARNESS_NAME = re.compile(r"[A-Za-z0-9_-]{1,96}")
_VALIDATION = ("validation", "valid", "val", "dev")
_LOCAL = "give a local file as NAME=FILE"


def is_dataset_id(text: str) -> bool:
    """Whether this is OWNER/NAME or OWNER/NAME:CONFIG."""
    return _HUB_ID.fullmatch(text) is not None and ".." not in text


def is_harness_name(text: str) -> bool:
    """Whether this can be the name of a harness task: a single word."""
    return _HARNESS_NAME.fullmatch(text) is not None


@dataclass(frozen=True)
class HubCorpus:
    """A data set of the hub.

    Attributes:
        dataset: OWNER/NAME on the hub.
        config: Its configuration; None: its only one, or its default.
    """

    dataset: str
    config: str | None = None

    @classmethod
    def of(cls, hub_id: str) -> HubCorpus:
        """The data set OWNER/NAME or OWNER/NAME:CONFIG.

        Raises:
            EnvironmentFailure: The `datasets` library is not installed.
        """
        try:
            import datasets  # noqa: F401
        except ImportError as error:
            raise EnvironmentFailure(
                f"{hub_id}: no such file; a data set of the hub needs the datasets library ({error}): "
                f"{install_remedy('evaluate')}"
            ) from error
        dataset, _, config = hub_id.partition(":")
        return cls(dataset, config or None)

    def __str__(self) -> str:
        return f"{self.dataset}:{self.config}" if self.config else self.dataset

    @cached_property
    def split(self) -> str:
        """The split that is read.

        Raises:
            InputError: The hub has no such data set, the configuration does not exist, or there are only test data.
            EnvironmentFailure: The hub cannot be reached and the data set is not in its cache.
        """
        return _training_split(str(self), list(self._splits))

    @property
    def notice(self) -> str:
        """A notice for the user about the split; "" if it is the training split."""
        return "" if self.split == "train" else _notice(str(self), self.split)

    def records(self) -> Iterator[dict[str, Any]]:
        """The rows of the split.

        Raises:
            InputError, EnvironmentFailure: As for `split`.
        """
        yield from self._splits[self.split]

    @cached_property
    def _splits(self) -> Any:
        import datasets

        try:
            with quiet_harness():
                return datasets.load_dataset(self.dataset, self.config)
        except MemoryError:
            raise
        except Exception as error:  # the hub clients' own errors share no useful base class across their releases
            reason = f"{' '.join(str(error).split()) or type(error).__name__:.200}"
            absent = (datasets.exceptions.DatasetNotFoundError, datasets.exceptions.DataFilesNotFoundError)
            # the configuration does not exist, or the data set needs code
            unusable = isinstance(error, ValueError | RuntimeError) and not isinstance(error, OSError)
            if unusable or isinstance(error, absent):
                raise InputError(
                    f"{self}: no such file, and no usable data set of this name on the hub ({reason}); "
                    f"write OWNER/NAME or OWNER/NAME:CONFIG, or {_LOCAL}"
                ) from error
            raise EnvironmentFailure(
                f"{self}: no such file, and the hub could not provide the data set ({reason}); "
                f"connect to the network, or {_LOCAL}"
            ) from error


@dataclass(frozen=True)
class HarnessCorpus:
    """The training data of a task of the harness, as records with a `prompt` and a `completion`.

    Prompt and completion are the harness's zero-shot ones: for a multiple-choice question, the text before the choice
    and the right choice.

    Attributes:
        name: The task's name in the harness.
    """

    name: str

    @classmethod
    def of(cls, name: str) -> HarnessCorpus:
        """The task of this name.

        Raises:
            UsageError: The harness has no such task.
            EnvironmentFailure: The harness is not installed.
        """
        refuse_unknown_harness_tasks([name])
        return cls(name)

    def __str__(self) -> str:
        return f"lm-eval task {self.name}"

    @cached_property
    def split(self) -> str:
        """The split that is read.

        Raises:
            InputError: The name is a group's, the task has only test data, or it needs images or sound.
            EnvironmentFailure: The task's data cannot be loaded.
        """
        config = self._task.config
        splits = {"train": config.training_split, "validation": config.validation_split}
        usable = [name for name, split in splits.items() if split and not split.startswith("test")]
        return _training_split(str(self), usable)

    @property
    def notice(self) -> str:
        """A notice for the user about the split; "" if it is the training split."""
        return "" if self.split == "train" else _notice(str(self), self.split)

    def records(self) -> Iterator[dict[str, Any]]:
        """The documents of the split as `{"prompt": ..., "completion": ...}`.

        Raises:
            InputError: As for `split`, or a document has no right answer.
            EnvironmentFailure: As for `split`.
        """
        is_training = self.split == "train"
        with quiet_harness():
            documents = self._task.training_docs() if is_training else self._task.validation_docs()
        for number, document in enumerate(documents, start=1):
            try:
                prompt, completion = _prompt_and_completion(self._task, document)
            except (AssertionError, LookupError, TypeError, ValueError) as error:
                raise InputError(f"{self}, document {number}: no right answer ({error!r:.120}); {_LOCAL}") from error
            yield {"prompt": prompt, "completion": completion}

    @cached_property
    def _task(self) -> Any:
        tasks = load_harness_tasks([self.name])
        if list(tasks) != [self.name]:
            raise InputError(f"'{self.name}' is a group of lm-eval tasks; choose one of them, such as {min(tasks)}")
        task = tasks[self.name]
        if getattr(task, "MULTIMODAL", False):
            raise InputError(f"{self}: needs images or sound; choose a text-only task")
        return task


def _prompt_and_completion(task: Any, document: Any) -> tuple[str, str]:
    """The prompt as the harness asks it zero-shot, and the right answer as it would appear in a few-shot example."""
    target = task.doc_to_target(document)
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return str(target), ""
    prefix = task.doc_to_prefix(document)  # the common beginning of all answers, which belongs to the prompt
    context = task.fewshot_context(document, num_fewshot=0, gen_prefix=prefix)
    if task.OUTPUT_TYPE == "multiple_choice":
        requests = task.construct_requests(document, context)
        prompt, completion = requests[_gold(task, document, target)].args
        return str(prompt), str(completion)
    if isinstance(target, list):
        target = target[0]
    if task.OUTPUT_TYPE == "loglikelihood":
        return str(context), str(target)
    delimiter = task.config.target_delimiter if not prefix else "" if prefix[-1].isspace() else " "
    return str(context), f"{delimiter}{target}"


def _gold(task: Any, document: Any, target: Any) -> int:
    """Index of the right choice; the first where there are several."""
    choices = task.doc_to_choice(document)
    gold = task.doc_to_text(document) if task.multiple_input else target
    if isinstance(gold, list):
        gold = gold[0]
    if isinstance(gold, str):
        gold = choices.index(gold)
    if not 0 <= gold < len(choices):
        raise ValueError(f"label {gold}")
    return int(gold)


def _training_split(corpus: str, splits: Collection[str]) -> str:
    for name in ("train", *_VALIDATION):
        if name in splits:
            return name
    there = ", ".join(splits) or "only test"
    raise InputError(f"{corpus}: no training or validation split (splits: {there}); {_LOCAL}")


def _notice(corpus: str, split: str) -> str:
    return f"{corpus}: has no training split, so its {split} split is used; do not evaluate on it"
