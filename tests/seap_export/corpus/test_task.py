from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from support.product import Job

from seap_export.corpus import LAST_NUMBER, AnswerRule, Sample, Task, parse_task, parse_tasks
from seap_export.errors import InputError, UsageError

SAMPLES = Path(__file__).parents[3] / "samples" / "tasks"


def _write(tmp_path: Path, task_file: str, *records: dict[str, Any]) -> str:
    """A spec of a task file whose corpus holds these records."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records or [{"text": "x"}]))
    (tmp_path / "a.toml").write_text(task_file if "corpus" in task_file else f'corpus = "a.jsonl"\n{task_file}')
    return f"a={tmp_path / 'a.toml'}"


def test_corpus_without_a_task_file_uses_the_field_text(tmp_path: Path) -> None:
    path = tmp_path / "b=c.jsonl"
    path.write_text('{"text": " one\\n"}\n{"text": " \\n"}\n{"text": ""}\n{"text": "two", "more": null}\n')
    task = parse_task(f"a={path}")
    assert task == Task("a", path, given_as=str(path))
    assert list(task.texts()) == [Sample(" one\n", ""), Sample("two", "")]
    assert parse_task(str(path.rename(tmp_path / "a.jsonl"))).name == "a"
    with pytest.raises(InputError, match="more than white space"):
        Sample(" ", "\n")
    for line, message in (('{"text": null}', "is null"), ('{"text": 3}', "is 3, not a text")):
        for content, where in (
            (f'{{"text": "x"}}\n\n{line}\n', "line 3"),
            (f'[{{"text": "x"}},\n\n{line}]', "record 2"),
        ):
            task.corpus.write_text(content)  # type: ignore[union-attr]
            with pytest.raises(InputError, match=rf"task 'a': .*/b=c\.jsonl, {where}: .*{message}"):
                list(task.texts())


PIQA = 'prompt = "{goal}:"\n[completion]\nchoices = [" {sol1}", " {sol2}"]\nlabel = "label"\n'
GOAL = {"goal": "g", "sol1": "x", "sol2": "y"}
ARC = 'prompt = "{q}:"\n[completion]\nchoices = "c.text"\nlabels = "c.label"\nlabel = "key"\ntemplate = " {choice}"\n'
YES_NO = 'prompt = "{q}:"\n[completion]\nchoices = [" yes", " no", " 0"]\nlabel = "a"\n'
LISTED = 'prompt = "{q}:"\ncompletion = {choices = "c", label = "n"}'
TEMPLATE = 'prompt = "{q}:"\n[completion]\nchoices = ["no", "yes"]\nlabel = "n"\ntemplate = " {choice} ({q})"'


@pytest.mark.parametrize(
    ("task_file", "record", "sample"),
    [
        ('prompt = "Q: {q}\\nA:"\ncompletion = " {a}"', {"q": "1+1?", "a": 2}, Sample("Q: 1+1?\nA:", " 2")),
        ('\ufeffcorpus = "a.jsonl"\nprompt = "{q}"', {"q": "x", "not asked for": math.nan}, Sample("x", "")),
        *((PIQA, {**GOAL, "label": label}, Sample("g:", " x")) for label in (0, False, "0", "x", " x ")),
        *((PIQA, {**GOAL, "label": label}, Sample("g:", " y")) for label in (1, True, "1")),
        (YES_NO, {"q": "q", "a": "no"}, Sample("q:", " no")),
        *((YES_NO, {"q": "q", "a": label}, Sample("q:", gold)) for label, gold in ((" yes ", " yes"), ("2", " 0"))),
        (YES_NO, {"q": "q", "a": "0"}, Sample("q:", " yes")),
        *(
            (ARC, {"q": "q", "c": {"text": ["x", "y"], "label": labels}, "key": key}, Sample("q:", f" {gold}"))
            for labels, key, gold in ((["A", "B"], "A", "x"), (["1", "2"], "2", "y"), ([1, 2], "1", "x"))
        ),
        (LISTED, {"q": "q", "c": ["x", "y"], "n": 1}, Sample("q:", "y")),
        (TEMPLATE, {"q": "q", "n": True}, Sample("q:", " yes (q)")),
    ],
)
def test_a_task_file_makes_prompt_and_completion(
    tmp_path: Path, task_file: str, record: dict[str, Any], sample: Sample
) -> None:
    assert list(parse_task(_write(tmp_path, task_file, record)).texts()) == [sample]


@pytest.mark.parametrize(
    ("task_file", "record", "message"),
    [
        *(
            (PIQA, {**GOAL, "label": label}, "'label' is neither the index of a choice (0 to 1) nor one of x, y")
            for label in (2, -1, "-1", "z", 1.0, None, "")
        ),
        (PIQA, {**GOAL, "sol2": "x ", "label": "x"}, "label 'x' in field 'label' is neither"),  # two of the choices
        (PIQA, GOAL, "field 'label' is missing; fields there: 'goal', 'sol1', 'sol2'"),
        (PIQA, {"goal": "g", "sol1": "x", "label": 1}, "field 'sol2' is missing"),
        (LISTED, {"q": "q", "c": ["x"], "n": 1}, "index of a choice (0 to 0)"),  # within the list of this very record
        *(
            (ARC, {"q": "q", "c": {"text": ["x", "y"], "label": ["A", "B"]}, "key": "A", **change}, message)
            for change, message in (
                ({"key": "D"}, "label 'D' is not one of the labels A, B"),
                ({"key": None}, "label None is not one of the labels A, B"),
                ({"c": {"text": ["x"], "label": ["A", "B"]}}, "1 choices, but 2 labels"),
                ({"c": {"text": "xy", "label": []}}, "field 'c.text' is not a list, but 'xy'"),
                ({"c": {"text": [None, "y"], "label": ["A", "B"]}}, "field 'choice' is null"),
            )
        ),
    ],
)
def test_a_record_that_does_not_fit_its_task_file_is_refused(
    tmp_path: Path, task_file: str, record: dict[str, Any], message: str
) -> None:
    spec = _write(tmp_path, task_file, record)
    with pytest.raises(InputError) as caught:
        list(parse_task(spec).texts())
    assert str(caught.value).startswith(f"task 'a': {tmp_path / 'a.jsonl'}, line 1: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


#: Without and with a prompt; what stands in the table of a completion; and what stands beside an answer.
FAULTY = {
    'completion = "x"': "key 'prompt' must be a string, but it is missing",
    'corpus = ["x"]': "key 'corpus' must be a string, not ['x']",
    "corpus = \n": "not a TOML file",
    'corpus = "b.jsonl"\nprompt = "x"': "b.jsonl: no such file",
    'user = "x"\ncompletion = "x"': "one or the other",
    'system = "x"': "key 'user' must be a string, but it is missing",
    'user = "{q"': "template '{q'",
    'user = "x"\nassistant = 3': "'assistant' must be a template",
    'user = "x"\nsystem = 3': "'system' must be a string",
    'user = "x"\nassistant = "y"\nanswer = "(.)"\nshots = 1\nexamples = "a.jsonl"': "conversations",
}
WITH_A_PROMPT = {
    "prompts = 1": "unknown key 'prompts'; known keys: corpus, prompt, completion",
    "completion = 1": "'completion' must be a template or a table with 'choices' and 'label'",
    'completion = "{a!r}"': "template '{a!r}'",
    'answer = "("': "'answer' is not a regular expression",
    'answer = "[0-9]+"': "'answer' has 0 groups",
    'answer = "(a)(b)"': "'answer' has 2 groups",
    "answer = 1": "key 'answer' must be a string",
    'stop = ["a"]': "'stop' is for generated answers",
}
COMPLETIONS = {
    'choice = "a", label = "b"': "unknown key 'choice'",
    'choices = ["a", 1], label = "b"': "'choices' must be a list of templates",
    'choices = [], label = "b"': "'choices' is empty",
    'choices = "{a}", label = "b"': "field '{a}' is malformed",
    'choices = ["a"]': "key 'label' must be a string, but it is missing",
    'choices = ["a"], label = "{b}"': "field '{b}' is malformed",
    'choices = "a", label = "b", labels = ["A"]': "key 'labels' must be a string",
    'choices = ["a"], label = "b", template = "{"': "template '{'",
}
ANSWERS = {
    'stop = "a"': "'stop' must be a list of texts",
    'stop = [""]': "'stop' contains an empty text",
    "shots = true": "'shots' must be a number of examples",
    "shots = 4": "'shots' and 'examples' belong together",
    'shots = -1\nexamples = "a.jsonl"': "'shots' and 'examples' belong together",
    'examples = "a.jsonl"': "'shots' and 'examples' belong together",
    'shots = 1\nexamples = "none.jsonl"': "none.jsonl: no such file",
}


def test_a_faulty_task_file_is_refused_before_the_corpus_is_read(tmp_path: Path) -> None:
    faulty = FAULTY | {f'prompt = "x"\n{words}': message for words, message in WITH_A_PROMPT.items()}
    faulty |= {f'prompt = "x"\ncompletion = {{{table}}}': message for table, message in COMPLETIONS.items()}
    faulty |= {f'prompt = "x"\nanswer = "(a)"\n{words}': message for words, message in ANSWERS.items()}
    for task_file, message in faulty.items():
        with pytest.raises(InputError) as caught:
            parse_task(_write(tmp_path, task_file))
        assert message in str(caught.value).removeprefix(f"{tmp_path / 'a.toml'}: ")
        assert "\n" not in str(caught.value)


def test_a_task_needs_a_name_of_its_own_that_can_name_a_folder() -> None:
    examples = {"": "maths=maths.jsonl", "a=": "a=a.jsonl", "=a.jsonl": "a=a.jsonl"}
    for spec, example in {**examples, "=openai/gsm8k": "gsm8k=openai/gsm8k"}.items():
        with pytest.raises(UsageError, match=f"^task '{spec}' is malformed; write NAME=FILE, such as {example}$"):
            parse_task(spec)
    for name in (".a", "..", "a/b", "a b", "é", "a\n", "", "a" * 65, "a.", "NUL", "con", "Com1.x"):
        with pytest.raises(UsageError, match="cannot name a folder"):
            Task(name, Path("a.jsonl"))
    for name in ("a", "A-b_c.1", "_", "9", "a" * 64, "console", "com10", "con-0.2", "lpt"):
        assert Task(name, Path("a.jsonl")).name == name
    reading, arithmetic = "b=sample:reading", "a=sample:arithmetic"
    assert [task.name for task in parse_tasks([reading, arithmetic])] == ["b", "a"]
    assert parse_tasks([]) == ()
    for second in (reading, "B=sample:arithmetic"):
        with pytest.raises(UsageError, match=r"^task name 'b' is given twice \(case does not count\); rename one"):
            parse_tasks([reading, second])


def test_sample_tasks_give_texts() -> None:
    names = ("arithmetic", "dates", "everyday", "order", "purchases", "reading", "sentiment", "topic")
    tasks = parse_tasks([f"sample:{name}" for name in names])
    texts = {task.name: list(task.texts()) for task in tasks}
    assert all(len({sample.text for sample in samples}) >= 100 for samples in texts.values())
    for task in tasks:  # each answer that is asked for is found, and is in one of the texts that are read
        asked = task.answer is not None and {task.answer.find(sample.completion) for sample in texts[task.name]}
        assert asked is False or None not in asked
    assert all(sample.completion.strip() in sample.prompt.rsplit("Order:")[-1] for sample in texts["order"])
    assert all(json.loads(sample.completion).keys() == {"date"} for sample in texts["dates"])
    assert len({json.loads(sample.completion)["item"] for sample in texts["purchases"]}) >= 10
    assert parse_task("sample:dates").job == Job("Text: {text}\nDate:", "\n", "answer")
    assert {sample.completion for sample in texts["sentiment"]} == {" positive", " negative"}
    with pytest.raises(UsageError, match="no sample task 'maths'; there are sample:arithmetic, sample:dates"):
        parse_task("sample:maths")


ARC_RECORD = {"question": "Why?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
BOOLQ_RECORD = {"question": "is it", "passage": "P.", "answer": True}
GSM8K_RECORD = {"question": "1+1?", "answer": "It is 2.\n#### 2"}


@pytest.mark.parametrize(
    ("name", "record", "prompt", "completion"),
    [
        ("gsm8k", GSM8K_RECORD, "Question: 1+1?\nAnswer:", " It is 2.\n#### 2"),
        ("piqa", {"goal": "boil", "sol1": "a", "sol2": "b", "label": 1}, "Question: boil\nAnswer:", " b"),
        ("arc_challenge", ARC_RECORD, "Question: Why?\nAnswer:", " b"),
        ("boolq", BOOLQ_RECORD, "P.\nQuestion: is it?\nAnswer:", " yes"),
        ("boolq", {**BOOLQ_RECORD, "answer": False}, "P.\nQuestion: is it?\nAnswer:", " no"),
    ],
)
def test_benchmark_task_files_fit_their_parquet_files(
    tmp_path: Path, name: str, record: dict[str, Any], prompt: str, completion: str
) -> None:
    task_file = shutil.copy(SAMPLES / "benchmarks" / f"{name}.toml", tmp_path)
    corpus = Path(task_file).read_text().split('corpus = "')[1].split('"')[0]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), tmp_path / corpus)
    assert list(parse_task(f"a={task_file}").texts()) == [Sample(prompt, completion)]


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


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("He has 3 + 4 = 7.", "7"),
        ("She earns $1,250.50.", "1250.5"),
        ("#### 1,000,000", "1000000"),
        ("It costs 18.00 dollars", "18"),
        ("It is -5", "-5"),
        ("It is -$5.", "-5"),
        ("7-5", "5"),
        ("(7)-5", "5"),
        ("007", "7"),
        ("-0.0", "0"),
        ("9" * 60, "9" * 60),
        ("no number", None),
        ("", None),
    ],
)
def test_last_number(text: str, number: str | None) -> None:
    assert AnswerRule(LAST_NUMBER).find(text) == number


def test_a_pattern_finds_its_group_where_it_first_matches_before_the_first_of_its_stops() -> None:
    rule = AnswerRule(r"(?:answer|result) is ([^.]*)")
    assert rule.find("The answer is a cat . The answer is a dog.") == "a cat"
    assert rule.find("no answer") is rule.find("The answer is  .") is AnswerRule("(a)|b").find("b") is None
    assert AnswerRule(r"(?s).*#(\d)").find("#1\n#2") == "2"
    rule = AnswerRule("(x)", stop=("\nQuestion:", "##"))
    texts = {"a ## b\nQuestion:": "a ", "\nQuestion: ##": "", "a # b": None}
    assert {text: rule.before_stop(text) for text in texts} == texts
    assert AnswerRule("(x)").before_stop("a") is None


def test_task_files_say_how_answers_are_found(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "a.toml").write_text(
        'corpus = "a.jsonl"\nprompt = "{text}"\ncompletion = " {text}"\n'
        'answer = "last number"\nstop = ["\\nQuestion:"]\nshots = 2\nexamples = "b.jsonl"\n'
    )
    task = parse_task(f"a={tmp_path / 'a.toml'}")
    assert task.answer == AnswerRule(LAST_NUMBER, ("\nQuestion:",), 2, tmp_path / "b.jsonl")
    assert [sample.text for sample in task.texts()] == ["one one"]
    assert parse_task(f"a={tmp_path / 'a.jsonl'}").answer is None
