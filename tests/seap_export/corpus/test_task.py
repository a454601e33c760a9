from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from seap_export.corpus import ChoiceCompletion, Sample, Task, TemplateCompletion, parse_task, parse_tasks
from seap_export.errors import InputError, UsageError

SAMPLES = Path(__file__).parents[3] / "samples" / "tasks"
PIQA = 'prompt = "{goal}:"\n[completion]\nchoices = [" {sol1}", " {sol2}"]\nlabel = "label"\n'
ARC = 'prompt = "{q}:"\n[completion]\nchoices = "c.text"\nlabels = "c.label"\nlabel = "key"\ntemplate = " {choice}"\n'


def _write(tmp_path: Path, task_file: str, *records: dict[str, Any]) -> str:
    """A spec of a task file whose corpus holds these records."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records or [{"text": "x"}]))
    (tmp_path / "a.toml").write_text(task_file if "corpus" in task_file else f'corpus = "a.jsonl"\n{task_file}')
    return f"a={tmp_path / 'a.toml'}"


def _error(tmp_path: Path, spec: str, error: type[Exception] = InputError) -> str:
    with pytest.raises(error) as caught:
        list(parse_task(spec).texts())
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(tmp_path), "DIR")


def test_corpus_without_a_task_file_uses_the_field_text(tmp_path: Path) -> None:
    path = tmp_path / "b=c.jsonl"
    path.write_text('{"text": " one\\n"}\n{"text": " \\n"}\n{"text": ""}\n{"text": "two", "more": null}\n')
    task = parse_task(f"a={path}")
    assert task == Task("a", path, given_as=str(path))
    assert list(task.texts()) == [Sample(" one\n", ""), Sample("two", "")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"goal": "two"}',
            "no form is recognised: a record has 'text', 'messages', 'prompt' and 'completion', or 'instruction' and "
            "'output' (fields there: 'goal'); give a task file (.toml) that turns them into a text",
        ),
        ('{"text": null}', "field 'text' is null; drop the record or give it a value"),
        ('{"text": 3}', "field 'text' is 3, not a text; put it into quotes, or drop the record"),
    ],
)
def test_the_line_without_a_text_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "one"}}\n\n{line}\n')
    assert _error(tmp_path, f"a={path}") == f"task 'a': DIR/a.jsonl, line 3: {message}"
    path.write_text(f'[{{"text": "one"}},\n\n{line}]\n')
    assert _error(tmp_path, f"a={path}") == f"task 'a': DIR/a.jsonl, record 2: {message}"


def test_prompt_and_completion_make_the_text(tmp_path: Path) -> None:
    spec = _write(
        tmp_path, 'prompt = "Q: {q}\\nA:"\ncompletion = " {a}"\n', {"q": "1+1?", "a": 2}, {"q": "x", "a": ""}
    )
    task = parse_task(spec)
    template = TemplateCompletion(" {a}")
    assert task == Task("a", tmp_path / "a.jsonl", "Q: {q}\nA:", template, given_as=spec.removeprefix("a="))
    samples = list(task.texts())
    assert samples == [Sample("Q: 1+1?\nA:", " 2"), Sample("Q: x\nA:", " ")]
    assert samples[0].text == "Q: 1+1?\nA: 2"


def test_record_of_white_space_only_is_skipped_and_no_sample(tmp_path: Path) -> None:
    spec = _write(tmp_path, 'prompt = "{q} "\ncompletion = "{a}"', {"q": "", "a": "\n"}, {"q": "", "a": "b"})
    assert list(parse_task(spec).texts()) == [Sample(" ", "b")]
    with pytest.raises(InputError) as caught:
        Sample(" ", "\n")
    assert str(caught.value) == "a sample needs a text that is more than white space"


@pytest.mark.parametrize(("label", "gold"), [(0, "x"), (1, "y"), (False, "x"), (True, "y"), ("0", "x"), ("1", "y")])
def test_label_is_the_index_of_a_choice(tmp_path: Path, label: object, gold: str) -> None:
    spec = _write(tmp_path, PIQA, {"goal": "g", "sol1": "x", "sol2": "y", "label": label})
    assert parse_task(spec).completion == ChoiceCompletion((" {sol1}", " {sol2}"), "label")
    assert list(parse_task(spec).texts()) == [Sample("g:", f" {gold}")]


@pytest.mark.parametrize(
    ("label", "shown"), [(2, "2"), (-1, "-1"), ("-1", "'-1'"), ("z", "'z'"), (1.0, "1.0"), (None, "None"), ("", "''")]
)
def test_label_that_is_no_index_is_refused(tmp_path: Path, label: object, shown: str) -> None:
    good = {"goal": "g", "sol1": "x", "sol2": "y", "label": 0}
    spec = _write(tmp_path, PIQA, good, {**good, "label": label})
    assert _error(tmp_path, spec) == (
        f"task 'a': DIR/a.jsonl, line 2: label {shown} in field 'label' is neither the index of a choice (0 to 1) "
        "nor one of x, y; use records that have a right answer, or name the field with the names of the choices as "
        "'labels'"
    )


@pytest.mark.parametrize(("label", "gold"), [("no", 1), (" yes ", 0), ("0", 0), ("2", 2)])
def test_label_may_be_the_choice_itself(tmp_path: Path, label: str, gold: int) -> None:
    spec = _write(
        tmp_path,
        'prompt = "{q}:"\n[completion]\nchoices = [" yes", " no", " 0"]\nlabel = "a"\n',
        {"q": "q", "a": label},
    )
    assert list(parse_task(spec).texts()) == [Sample("q:", (" yes", " no", " 0")[gold])]


def test_label_that_is_two_of_the_choices_is_refused(tmp_path: Path) -> None:
    record = {"goal": "g", "sol1": "x", "sol2": "x ", "label": "x"}
    assert "label 'x' in field 'label' is neither" in _error(tmp_path, _write(tmp_path, PIQA, record))


def test_missing_label_and_missing_choice_are_named(tmp_path: Path) -> None:
    assert _error(tmp_path, _write(tmp_path, PIQA, {"goal": "g", "sol1": "x", "sol2": "y"})) == (
        "task 'a': DIR/a.jsonl, line 1: field 'label' is missing; fields there: 'goal', 'sol1', 'sol2'"
    )
    assert _error(tmp_path, _write(tmp_path, PIQA, {"goal": "g", "sol1": "x", "label": 1})) == (
        "task 'a': DIR/a.jsonl, line 1: field 'sol2' is missing; fields there: 'goal', 'sol1', 'label'"
    )


@pytest.mark.parametrize(
    ("labels", "key", "gold"), [("ABC", "A", "x"), ("ABC", "C", "z"), ("123", "2", "y"), ([1, 2, 3], "3", "z")]
)
def test_label_may_be_one_of_the_labels(tmp_path: Path, labels: Any, key: str, gold: str) -> None:
    record = {"q": "q", "c": {"text": ["x", "y", "z"], "label": list(labels)}, "key": key}
    task = parse_task(_write(tmp_path, ARC, record))
    assert task.completion == ChoiceCompletion("c.text", "key", "c.label", " {choice}")
    assert list(task.texts()) == [Sample("q:", f" {gold}")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "D"}, "label 'D' is not one of the labels A, B; correct or drop the record"),
        ({"key": None}, "label None is not one of the labels A, B; correct or drop the record"),
        ({"c": {"text": ["x"], "label": ["A", "B"]}}, "1 choices, but 2 labels; correct or drop the record"),
        ({"c": {"text": "xy", "label": []}}, "field 'c.text' is not a list, but 'xy'; name a field that holds a list"),
        ({"c": {"text": ["x"]}}, "field 'c.label' is missing; fields there: 'text'"),
        (
            {"c": {"text": [None, "y"], "label": ["A", "B"]}},
            "field 'choice' is null; drop the record or give it a value",
        ),
    ],
)
def test_record_that_does_not_fit_its_labels_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    record = {"q": "q", "c": {"text": ["x", "y"], "label": ["A", "B"]}, "key": "A", **change}
    assert _error(tmp_path, _write(tmp_path, ARC, record)) == f"task 'a': DIR/a.jsonl, line 1: {message}"


def test_list_of_choices_needs_no_labels_and_no_template(tmp_path: Path) -> None:
    task_file = 'prompt = "{q}"\ncompletion = {choices = "c", label = "n"}'
    spec = _write(tmp_path, task_file, {"q": "q", "c": ["x", "y"], "n": 1})
    assert list(parse_task(spec).texts()) == [Sample("q", "y")]
    # without labels the index must lie within the list of this very record
    assert "index of a choice (0 to 0)" in _error(
        tmp_path, _write(tmp_path, task_file, {"q": "q", "c": ["x"], "n": 1})
    )


def test_template_applies_to_the_right_choice_and_sees_the_record(tmp_path: Path) -> None:
    task_file = 'prompt = "{q}"\n[completion]\nchoices = ["no", "yes"]\nlabel = "n"\ntemplate = " {choice} ({q})"'
    assert list(parse_task(_write(tmp_path, task_file, {"q": "q", "n": True})).texts()) == [Sample("q", " yes (q)")]


@pytest.mark.parametrize(
    ("task_file", "message"),
    [
        (
            'prompt = "x"\nprompts = 1',
            "unknown key 'prompts'; known keys: corpus, prompt, completion, system, user, assistant, answer, stop, "
            "shots, examples",
        ),
        ('completion = "x"', "key 'prompt' must be a string, but it is missing; write prompt = \"...\""),
        ("prompt = 3", "key 'prompt' must be a string, not 3; write prompt = \"...\""),
        ('corpus = ["x"]', "key 'corpus' must be a string, not ['x']; write corpus = \"...\""),
        ('prompt = "{a"', "template '{a': expected '}' before end of string; write {{ and }} for literal braces"),
        ('prompt = "x"\ncompletion = 1', "'completion' must be a template or a table with 'choices' and 'label'"),
        (
            'prompt = "x"\ncompletion = "{a!r}"',
            "template '{a!r}': formats and conversions are not supported; write {a}",
        ),
        (
            'prompt = "x"\ncompletion = {choice = "a", label = "b"}',
            "unknown key 'choice'; known keys: choices, label, labels, template",
        ),
        (
            'prompt = "x"\ncompletion = {label = "b"}',
            "'choices' must be a list of templates or the path of a list field",
        ),
        (
            'prompt = "x"\ncompletion = {choices = ["a", 1], label = "b"}',
            "'choices' must be a list of templates or the path of a list field",
        ),
        (
            'prompt = "x"\ncompletion = {choices = [], label = "b"}',
            "'choices' is empty; give a list of templates or the path of a list field",
        ),
        (
            'prompt = "x"\ncompletion = {choices = "{a}", label = "b"}',
            "field '{a}' is malformed; write it as field, a.b, a[0] or a[key]",
        ),
        (
            'prompt = "x"\ncompletion = {choices = ["a"]}',
            "key 'label' must be a string, but it is missing; write label = \"...\"",
        ),
        (
            'prompt = "x"\ncompletion = {choices = ["a"], label = "{b}"}',
            "field '{b}' is malformed; write it as field, a.b, a[0] or a[key]",
        ),
        (
            'prompt = "x"\ncompletion = {choices = "a", label = "b", labels = ["A"]}',
            "key 'labels' must be a string, not ['A']; write labels = \"...\"",
        ),
        (
            'prompt = "x"\ncompletion = {choices = ["a"], label = "b", template = "{"}',
            "template '{': Single '{' encountered in format string; write {{ and }} for literal braces",
        ),
    ],
)
def test_faulty_task_file_is_refused_before_the_corpus_is_read(tmp_path: Path, task_file: str, message: str) -> None:
    spec = _write(tmp_path, task_file)
    with pytest.raises(InputError) as caught:
        parse_task(spec)
    assert str(caught.value) == f"{tmp_path / 'a.toml'}: {message}"


def test_a_task_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "x"}')
    (tmp_path / "a.toml").write_text('\ufeffcorpus = "a.jsonl"\nprompt = "{q}"', "utf-8")
    assert [sample.text for sample in parse_task(f"a={tmp_path}/a.toml").texts()] == ["x"]


def test_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("corpus = \n")
    assert _error(tmp_path, f"a={tmp_path}/a.toml") == (
        "DIR/a.toml: not a TOML file (Invalid value (at line 1, column 10)); see samples/tasks for an example"
    )
    (tmp_path / "a.toml").write_bytes(b'corpus = "\xff"')
    assert _error(tmp_path, f"a={tmp_path}/a.toml").startswith("DIR/a.toml: not a TOML file (")
    assert _error(tmp_path, f"a={tmp_path}/b.toml") == (
        "DIR/b.toml: cannot be read (No such file or directory); give the path of a task file"
    )


def test_corpus_is_checked_when_the_task_is_parsed(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        parse_task(_write(tmp_path, 'corpus = "b.jsonl"\nprompt = "x"'))
    assert str(caught.value) == f"{tmp_path}/b.jsonl: no such file; give the path of a corpus file"


@pytest.mark.parametrize(
    ("spec", "example"),
    [
        ("", "maths=maths.jsonl"),
        ("=", "maths=maths.jsonl"),
        ("a=", "a=a.jsonl"),
        ("=a.jsonl", "a=a.jsonl"),
        ("my texts.jsonl", "maths=my texts.jsonl"),
        ("=openai/gsm8k", "gsm8k=openai/gsm8k"),
    ],
)
def test_spec_of_a_file_needs_a_name_for_a_folder(spec: str, example: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_task(spec)
    assert str(caught.value) == f"task '{spec}' is malformed; write NAME=FILE, such as {example}"


@pytest.mark.parametrize("name", [".a", "..", "a/b", "a b", "é", "a\n", "", "a" * 65, "a.", "NUL", "con", "Com1.x"])
def test_name_must_do_as_a_folder_name(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        Task(name, Path("a.jsonl"))
    assert str(caught.value).startswith(f"task name {name!r} cannot name a folder; use up to 64 of ")


@pytest.mark.parametrize("name", ["a", "A-b_c.1", "_", "9", "a" * 64, "console", "com10", "con-0.2", "lpt"])
def test_folder_names_are_names(name: str) -> None:
    assert Task(name, Path("a.jsonl")).name == name


@pytest.mark.parametrize("source", ["{}/a.jsonl", "{}/a.toml"])
def test_a_file_names_its_task(tmp_path: Path, source: str) -> None:
    _write(tmp_path, 'prompt = "{text}"')
    file = source.format(tmp_path)
    assert parse_task(file) == parse_task(f"a={file}")


def test_tasks_keep_their_order_and_differ_in_name() -> None:
    reading, arithmetic = "b=sample:reading", "a=sample:arithmetic"
    assert [task.name for task in parse_tasks([reading, arithmetic])] == ["b", "a"]
    assert parse_tasks([]) == ()
    for second in (reading, "B=sample:arithmetic"):
        with pytest.raises(UsageError) as caught:
            parse_tasks([reading, second])
        assert str(caught.value) == "task name 'b' is given twice (case does not count); rename one of the tasks"


def test_sample_tasks_are_named() -> None:
    assert (parse_task("x=sample:reading").name, parse_task("sample:reading").name) == ("x", "reading")
    with pytest.raises(
        UsageError, match="no sample task 'maths'; there are sample:arithmetic, sample:everyday, sample:"
    ):
        parse_task("sample:maths")


def test_sample_tasks_give_texts() -> None:
    names = ("arithmetic", "everyday", "order", "reading", "sentiment", "topic")
    tasks = parse_tasks([f"sample:{name}" for name in names])
    texts = {task.name: list(task.texts()) for task in tasks}
    assert {name: len({sample.text for sample in samples}) for name, samples in texts.items()} == {
        "arithmetic": 101,
        "everyday": 106,
        "order": 108,
        "reading": 105,
        "sentiment": 108,
        "topic": 100,
    }
    question = "How can you keep slices of apple from turning brown before a picnic?"
    assert texts["everyday"][0] == Sample(
        f"{question}\n\n",
        "Sprinkle the slices with a little lemon juice and close the box tightly.",
        question=question,
    )
    assert texts["arithmetic"][0].question.startswith("Maya bakes 4 trays of muffins")
    assert texts["arithmetic"][0].completion.endswith("The answer is 33.")
    assert texts["reading"][1].prompt.endswith("Does the Nile empty into the Red Sea?\nAnswer: no")
    for task in tasks:  # each answer that is asked for is found, and is in one of the texts that are read
        asked = task.answer is not None and {task.answer.find(sample.completion) for sample in texts[task.name]}
        assert asked is False or None not in asked
    assert all(sample.completion.strip() in sample.prompt.rsplit("Order:")[-1] for sample in texts["order"])
    assert {sample.completion for sample in texts["sentiment"]} == {" positive", " negative"}
    assert {sample.completion for sample in texts["topic"]} == {" sports", " weather", " food", " money", " health"}


@pytest.mark.parametrize(
    ("name", "record", "sample"),
    [
        (
            "gsm8k",
            {"question": "1+1?", "answer": "It is 2.\n#### 2"},
            ("Question: 1+1?\nAnswer:", " It is 2.\n#### 2"),
        ),
        ("piqa", {"goal": "boil", "sol1": "a", "sol2": "b", "label": 1}, ("Question: boil\nAnswer:", " b")),
        (
            "arc_challenge",
            {"question": "Why?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
            ("Question: Why?\nAnswer:", " b"),
        ),
        ("boolq", {"question": "is it", "passage": "P.", "answer": True}, ("P.\nQuestion: is it?\nAnswer:", " yes")),
        ("boolq", {"question": "is it", "passage": "P.", "answer": False}, ("P.\nQuestion: is it?\nAnswer:", " no")),
    ],
)
def test_benchmark_task_files_fit_their_parquet_files(
    tmp_path: Path, name: str, record: dict[str, Any], sample: tuple[str, str]
) -> None:
    task_file = shutil.copy(SAMPLES / "benchmarks" / f"{name}.toml", tmp_path)
    corpus = Path(task_file).read_text().split('corpus = "')[1].split('"')[0]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), tmp_path / corpus)
    assert list(parse_task(f"a={task_file}").texts()) == [Sample(*sample)]


@pytest.mark.parametrize("name", ["wikitext2", "wikitext2_test"])
def test_the_texts_of_wikitext_are_made_as_its_task_files_say(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task_file = Path(shutil.copy(SAMPLES / "benchmarks" / f"{name}.toml", tmp_path))
    [(program, corpus)] = re.findall(r'python -c "(.+)" > (\S+)', task_file.read_text())
    [data] = re.findall(r"'(\S+\.parquet)'", program)
    records = [{"text": text} for text in ("", " = Title = \n", f" {'a' * 200} \n", f" {'b' * 199} \n")]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / data)
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    Path(corpus).write_text(capsys.readouterr().out)
    assert list(parse_task(f"a={task_file}").texts()) == [Sample("a" * 200, "")]
