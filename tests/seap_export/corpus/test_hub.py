"""Data sets of the hub and tasks of the harness, on local files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from seap_export.corpus import Sample, Task, parse_task, parse_tasks
from seap_export.corpus.hub import HarnessCorpus, HubCorpus, is_dataset_id, is_harness_name
from seap_export.errors import EnvironmentFailure, InputError, SeapError, UsageError


def _yaml(kind: str, text: str, target: str, more: str = "") -> str:
    return f"output_type: {kind}\ndoc_to_text: {text}\ndoc_to_target: {target}\n{more}\n"


GENERATE = _yaml("generate_until", '"Question: {{question}}\\nAnswer:"', '"{{answer}}"')
CHOICES = 'doc_to_choice: "{{[sol1, sol2]}}"'
CHOICE = _yaml("multiple_choice", '"{{goal}}\\nAnswer:"', "label", CHOICES)
SUMS = [{"question": f"1+{n}?", "answer": str(n + 1)} for n in range(3)]
GOALS = [{"goal": f"g{n}", "sol1": "a", "sol2": "b", "label": n % 2} for n in range(3)]
TRAIN = "training_split: train\n"


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write_dataset(folder: Path, **splits: Sequence[dict[str, Any]]) -> HubCorpus:
    """A data set of the given splits, laid out as on the hub."""
    folder.mkdir()
    for split, records in splits.items():
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records)), folder / f"{split}.parquet")
    return HubCorpus(str(folder))


@pytest.fixture
def write_harness_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes a task of the harness, whose other tasks are then out of sight."""
    from lm_eval.tasks import TaskManager

    tasks = tmp_path / "tasks"
    tasks.mkdir()
    only = partial(TaskManager, include_path=str(tasks), include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", only)

    def write(name: str, yaml: str, **splits: Sequence[dict[str, Any]]) -> None:
        folder = write_dataset(tmp_path / f"{name}_data", **splits).dataset
        files = "".join(f"    {split}: {folder}/{split}.parquet\n" for split in splits)
        head = f"task: {name}\ndataset_path: parquet\ndataset_kwargs:\n  data_files:\n{files}"
        (tasks / f"{name}.yaml").write_text(head + yaml)

    return write


def _message(error: type[SeapError], call: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_data_set_gives_its_training_split_or_its_validation_split(tmp_path: Path) -> None:
    no = [{"text": "no"}]
    task = Task("t", write_dataset(tmp_path / "t", test=no, validation=no, train=[{"text": "a"}, {"text": "b"}]))
    assert list(task.texts()) == [Sample("a", ""), Sample("b", "")]
    assert task.notice == ""
    validation = Task("v", write_dataset(tmp_path / "v", test=no, validation=[{"text": "a"}]))
    assert list(validation.texts()) == [Sample("a", "")]
    assert "validation split" in validation.notice


def test_a_data_set_that_is_not_usable_is_refused_and_its_code_does_not_run(tmp_path: Path) -> None:
    tested = Task("t", write_dataset(tmp_path / "t", test=[{"text": "no"}]))
    assert "splits: test" in _message(InputError, lambda: list(tested.texts()))
    sums = write_dataset(tmp_path / "sums", train=SUMS)
    assert "task file" in _message(InputError, lambda: list(Task("t", sums).texts()))
    assert "OWNER/NAME:CONFIG" in _message(InputError, lambda: HubCorpus(sums.dataset, "other").split)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "Dataset scripts" in _message(InputError, lambda: HubCorpus(str(tmp_path / "evil")).split)
    assert not (tmp_path / "ran").exists()


def test_without_a_network_or_the_library_it_is_the_environments_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (ConnectionError("no route\nto the hub"), OSError(28, "full")):

        def fail(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr("datasets.load_dataset", fail)
        assert "hub" in _message(EnvironmentFailure, lambda: list(parse_task("openai/gsm8k").texts()))
    for module in ("datasets", "lm_eval"):
        monkeypatch.setitem(sys.modules, module, None)
    for spec in ("openai/gsm8k", "gsm8k"):
        assert "run: pip install" in _message(EnvironmentFailure, partial(parse_task, spec))


def test_what_is_no_file_is_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gsm8k, main = HubCorpus("openai/gsm8k"), HubCorpus("openai/gsm8k", "main")
    assert parse_task("openai/gsm8k") == Task("gsm8k", gsm8k, given_as="openai/gsm8k")
    assert parse_task("maths=openai/gsm8k:main") == Task("maths", main, given_as="openai/gsm8k:main")
    for spec in ("a=./gsm8k.jsonl", "a=x/y/z", "a=/x/y"):
        assert "no such file" in _message(InputError, partial(parse_task, spec))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai").mkdir()
    (tmp_path / "openai" / "gsm8k").write_text("x")
    assert "unknown kind of corpus" in _message(InputError, partial(parse_task, "a=openai/gsm8k"))
    assert all(map(is_dataset_id, ("a/b", "HuggingFaceH4/ultrachat_200k", "wikimedia/wikipedia:20231101.en")))
    assert not any(map(is_dataset_id, ("a", "a/b/c", "/a", "../a", "a/..", "a/b:", "~/a", "C:/a", "a b/c", "a\\b")))
    assert is_harness_name("arc_challenge")
    assert not any(map(is_harness_name, ("", "a/b", "a.csv", "a b", "a=b")))


def test_a_task_file_may_name_a_data_set(tmp_path: Path) -> None:
    file = tmp_path / "maths.toml"
    file.write_text('corpus = "openai/gsm8k:main"\nprompt = "{question}"\ncompletion = " {answer}"')
    task = parse_task(f"maths={file}")
    assert task.corpus == HubCorpus("openai/gsm8k", "main")
    local = replace(task, corpus=write_dataset(tmp_path / "sums", train=SUMS))
    assert list(local.texts())[:2] == [Sample("1+0?", " 1"), Sample("1+1?", " 2")]


def test_a_task_of_the_harness_is_asked_as_the_harness_asks(write_harness_task: Callable[..., None]) -> None:
    write_harness_task("sums", GENERATE + TRAIN + "test_split: test\n", train=SUMS, test=SUMS[:1])
    write_harness_task("goals", CHOICE + TRAIN + "validation_split: validation\n", train=GOALS, validation=GOALS[:1])
    splits = "validation_split: validation\ntest_split: test\n"
    write_harness_task("v", GENERATE + splits, validation=SUMS, test=SUMS[:1])
    sums, goals, validation = parse_tasks(["sums", "other=goals", "v"])
    assert (sums.name, sums.corpus, goals.name) == ("sums", HarnessCorpus("sums"), "other")
    assert list(sums.texts()) == [Sample(f"Question: 1+{n}?\nAnswer:", f" {n + 1}") for n in range(3)]
    assert list(goals.texts()) == [Sample(f"g{n}\nAnswer:", " b" if n % 2 else " a") for n in range(3)]
    assert (sums.notice, goals.notice) == ("", "")
    assert len(list(validation.texts())) == 3  # without training data
    assert "validation split" in validation.notice


@pytest.mark.parametrize(
    ("yaml", "record", "sample"),
    [
        # the choice is within the prompt, as in WinoGrande
        (
            _yaml("multiple_choice", "label", "goal", CHOICES),
            {"goal": "ran.", "sol1": "The cat", "sol2": "The dog", "label": 1},
            Sample("The dog", " ran."),
        ),
        # the label is a choice spelled out; a text stands before all questions
        (
            'description: "Choose.\\n\\n"\n' + _yaml("multiple_choice", "q", "answer", 'doc_to_choice: ["no", "yes"]'),
            {"q": "Is it?", "answer": "yes"},
            Sample("Choose.\n\nIs it?", " yes"),
        ),
        # several right answers
        (_yaml("generate_until", "q", "a"), {"q": "Who?", "a": ["Ada", "Lovelace"]}, Sample("Who?", " Ada")),
        # the target holds the space itself, as in LAMBADA
        (
            _yaml("loglikelihood", "q", "\"{{' ' + word}}\""),
            {"q": "The cat", "word": "sat"},
            Sample("The cat", " sat"),
        ),
        # text without a question, as in WikiText
        (_yaml("loglikelihood_rolling", '""', '"{{page}}"'), {"page": "A long page."}, Sample("A long page.", "")),
        (
            _yaml("generate_until", "q", "a", "gen_prefix: 'A:'"),
            {"q": "Say it.", "a": "it"},
            Sample("Say it. A:", " it"),
        ),
    ],
)
def test_kinds_of_tasks(
    write_harness_task: Callable[..., None], yaml: str, record: dict[str, Any], sample: Sample
) -> None:
    write_harness_task("some", yaml + TRAIN + "validation_split: train\n", train=[record])
    assert list(parse_task("some").texts()) == [sample]


def test_a_task_that_is_not_usable_is_refused(write_harness_task: Callable[..., None], tmp_path: Path) -> None:
    write_harness_task("t", GENERATE + "test_split: test\n", test=SUMS)
    write_harness_task("named", GENERATE + "validation_split: test\n", test=SUMS)
    write_harness_task(
        "goals", CHOICE + TRAIN + "validation_split: train\n", train=[*GOALS, {**GOALS[0], "label": -1}]
    )
    (tmp_path / "tasks" / "group.yaml").write_text("group: all_of_them\ntask:\n  - goals\n")
    for name, words in {
        "t": "no training or validation split",
        "named": "no training or validation split",
        "goals": "document 4",
        "all_of_them": "group",
    }.items():
        assert words in _message(InputError, partial(list, parse_task(name).texts()))
    assert "no task 'none'" in _message(UsageError, partial(parse_task, "none"))
    (tmp_path / "t_data" / "test.parquet").unlink()
    assert "network" in _message(EnvironmentFailure, lambda: list(parse_task("t").texts()))
