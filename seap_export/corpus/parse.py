"""Tasks as users give them: on the command line, and in task files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seap_export.common.toml_file import toml_values
from seap_export.corpus.answers import LAST_NUMBER, AnswerRule
from seap_export.corpus.hub import HarnessCorpus, HubCorpus, is_dataset_id, is_harness_name
from seap_export.corpus.job import job_source, job_task
from seap_export.corpus.names import is_folder_name
from seap_export.corpus.readers import CORPUS_SUFFIXES, check_corpus
from seap_export.corpus.task import ChoiceCompletion, Completion, Task, TemplateCompletion
from seap_export.errors import InputError, MissingInput, UsageError

#: The longest task file (16 KiB); the parser's memory grows with the square of a long dotted key.
_MAX_TASK_BYTES = 16 * 2**10
_TASK_FILE = ".toml"
#: Tasks that come with the package, to try it with.
SAMPLE = "sample:"
_SAMPLES = {
    "arithmetic": "arithmetic.jsonl",
    "dates": "dates.toml",
    "everyday": "everyday.toml",
    "order": "order.toml",
    "purchases": "purchases.toml",
    "reading": "reading.txt",
    "sentiment": "sentiment.toml",
    "topic": "topic.toml",
}
#: Keys of a text, and of a conversation.
_TEXT_KEYS, _TURN_KEYS = ("prompt", "completion"), ("system", "user", "assistant")
#: Keys of a task whose answers can be generated.
_ANSWER_KEYS = ("answer", "stop", "shots", "examples")
#: Whether variants are trained on the completions.
_LEARN = "learn"


def parse_tasks(specs: Sequence[str]) -> tuple[Task, ...]:
    """The tasks of several specs as `parse_task` takes them.

    Raises:
        UsageError: A spec is malformed, two tasks have the same name, or the harness has no such task.
        InputError: A task file or a corpus cannot be used.
        EnvironmentFailure: A library that a corpus needs is not installed.
    """
    tasks = tuple(parse_task(spec) for spec in specs)
    refuse_same_names(tasks)
    return tasks


def refuse_same_names(tasks: Sequence[Task]) -> None:
    """Raises `UsageError` if two tasks have the same name."""
    names = [task.name.lower() for task in tasks]  # they become folders, and to many disks "A" and "a" are one
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UsageError(f"task name '{name}' is given twice (case does not count); rename one of the tasks")


def parse_task(spec: str) -> Task:
    """The task of `NAME=SOURCE`, or of a SOURCE alone; NAME is then the last part of SOURCE, without a suffix.

    SOURCE is, in this order: `FILE:INPUT:ANSWER`, a corpus file and its fields with an input and the right answer,
    which is learnt (`job_task`); `sample:` and the name of a task that comes with the package; a file, if it exists or
    has the suffix of a corpus or a task file; a data set of the hub, if it is OWNER/NAME or OWNER/NAME:CONFIG; a task
    of the lm-evaluation-harness, if it is one word. Records of a corpus without a task file are recognised by their
    fields (`read_record`).

    Raises:
        UsageError: The spec is malformed, the name cannot be a folder name, or the harness has no such task.
        InputError: The task file or the corpus cannot be used.
        EnvironmentFailure: A library that the corpus needs is not installed.
    """
    name, equals, source = spec.partition("=")
    if not equals:
        last = spec.removeprefix(SAMPLE).partition(":")[0].rpartition("/")[2]
        job = job_source(spec)
        path = Path(spec) if job is None else job[0]
        name, source = path.stem if _is_file(path) else last, spec
    if not name or not source or not (equals or is_folder_name(name)):
        file = source or f"{name or 'maths'}.jsonl"
        stem = Path(file).stem
        example = f"{stem if is_folder_name(stem) else 'maths'}={file}"
        raise UsageError(f"task {spec!r} is malformed; write NAME=FILE, such as {example}")
    return replace(_task(name, source), given_as=source)


def _task(name: str, source: str) -> Task:
    job = job_source(source)
    if job is not None:
        return job_task(name, *job)
    path = _sample_file(source) or Path(os.path.expanduser(source))
    if path.suffix.lower() == _TASK_FILE:
        return _read_task_file(name, path)
    if not _is_file(path):
        if is_dataset_id(source):
            return Task(name, HubCorpus.of(source))
        if is_harness_name(source):
            return Task(name, HarnessCorpus.of(source), "{prompt}", TemplateCompletion("{completion}"))
    check_corpus(path)
    return Task(name, path)


def _sample_file(source: str) -> Path | None:
    """The file of a task that comes with the package; None: the source names none."""
    if not source.startswith(SAMPLE):
        return None
    name = source.removeprefix(SAMPLE)
    if name not in _SAMPLES:
        raise UsageError(f"there is no sample task {name!r}; there are {', '.join(map(SAMPLE.__add__, _SAMPLES))}")
    return Path(__file__).parent / "samples" / _SAMPLES[name]


def _is_file(path: Path) -> bool:
    return path.suffix.lower() in (*CORPUS_SUFFIXES, _TASK_FILE) or os.path.lexists(path)


def _read_task_file(name: str, path: Path) -> Task:
    try:
        table = toml_values(_small_text(path))
    except OSError as error:
        raise MissingInput(f"{path}: cannot be read ({error.strerror}); give the path of a task file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a TOML file ({error}); see samples/tasks for an example") from error
    try:
        _refuse_unknown_keys(table, ("corpus", *_TEXT_KEYS, *_TURN_KEYS, *_ANSWER_KEYS, _LEARN))
        corpus = _string(table, "corpus")
        task = Task(
            name,
            path.parent / corpus,
            **_parts(table),
            answer=_answer(table, path.parent),
            is_learnt=_is_learnt(table),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if is_dataset_id(corpus) and not _is_file(path.parent / corpus):
        return replace(task, corpus=HubCorpus.of(corpus))
    check_corpus(path.parent / corpus)
    if task.answer is not None and task.answer.examples is not None:
        check_corpus(task.answer.examples)
    return task


def _small_text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MAX_TASK_BYTES + 1)
    if len(content) > _MAX_TASK_BYTES:
        raise ValueError(f"it is longer than {_MAX_TASK_BYTES // 2**10} KiB")
    return content.decode("utf-8-sig")


def _parts(table: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Task` for a text or a conversation; empty: records are recognised by their fields."""
    turns, texts = (next((key for key in keys if key in table), None) for keys in (_TURN_KEYS, _TEXT_KEYS))
    if turns is None and texts is None:
        return {}
    if turns is not None and texts is not None:
        raise InputError(f"'{turns}' is part of a conversation and '{texts}' of a text; write one or the other")
    first, second = _TEXT_KEYS if turns is None else _TURN_KEYS[1:]
    return {
        "prompt": _string(table, first),
        "completion": _completion(second, table[second]) if second in table else None,
        "is_conversation": turns is not None,
        "system": _string(table, "system") if "system" in table else None,
    }


def _completion(key: str, value: object) -> Completion:
    if isinstance(value, str):
        return TemplateCompletion(value)
    if not isinstance(value, dict):
        raise InputError(f"'{key}' must be a template or a table with 'choices' and 'label'")
    _refuse_unknown_keys(value, ("choices", "label", "labels", "template"))
    choices = value.get("choices")
    if isinstance(choices, list) and all(isinstance(choice, str) for choice in choices):
        choices = tuple(choices)
    elif not isinstance(choices, str):
        raise InputError("'choices' must be a list of templates or the path of a list field")
    optional = {key: _string(value, key) for key in ("labels", "template") if key in value}
    return ChoiceCompletion(choices, _string(value, "label"), **optional)


def _answer(table: Mapping[str, Any], folder: Path) -> AnswerRule | None:
    if "answer" not in table:
        alone = next((key for key in _ANSWER_KEYS if key in table), None)
        if alone is not None:
            raise InputError(f"'{alone}' is for generated answers; add answer = \"{LAST_NUMBER}\" or remove it")
        return None
    stop, shots = table.get("stop", []), table.get("shots", 0)
    if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop):
        raise InputError(f"'stop' must be a list of texts, not {stop!r:.40}; write stop = [\"\\nQuestion:\"]")
    if not isinstance(shots, int) or isinstance(shots, bool):
        raise InputError(f"'shots' must be a number of examples, not {shots!r:.40}; write shots = 4")
    examples = folder / _string(table, "examples") if "examples" in table else None
    if examples is not None and "prompt" not in table:
        raise InputError("'shots' and 'examples' are for texts, not for conversations; leave them out")
    return AnswerRule(_string(table, "answer"), tuple(stop), shots, examples)


def _is_learnt(table: Mapping[str, Any]) -> bool:
    value = table.get(_LEARN, False)
    if not isinstance(value, bool):
        raise InputError(f"'{_LEARN}' must be true or false, not {value!r:.40}")
    if value and ("prompt" in table or "user" in table) and not ("completion" in table or "assistant" in table):
        raise InputError(f"'{_LEARN}' needs the right answers; add a completion, or remove it")
    return value


def _refuse_unknown_keys(table: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = [key for key in table if key not in known]
    if unknown:
        raise InputError(f"unknown key {unknown[0]!r}; known keys: {', '.join(known)}")


def _string(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        problem = f"not {value!r:.40}" if key in table else "but it is missing"
        raise InputError(f"key '{key}' must be a string, {problem}; write {key} = \"...\"")
    return value
