"""A table of inputs and right answers that variants learn: `export --task NAME=FILE:INPUT:ANSWER`."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.corpora import WORDS
from support.exports import Outcome, Run, times_of_writing
from support.models import write_micro_model
from support.product import Job
from support.tokenizers import trained_byte_level

from seap_export.common.json_file import read_json
from seap_export.corpus import text_digest
from seap_export.pruning.distillation import learning
from seap_export.runtime.job import JOB

#: An answer for each first word of a message.
ANSWERS = {"cat": "home", "dog": "far"}
TASK = ("--task", "job=table.csv:message:answer", "--ratio", "0.5", "--set", "held_out=12")
EXPORT = ("export", "m", *TASK, "--quality", "--out", "out")
HF = ("export", "m", *TASK, "--format", "hf")
FORM = Job("Message: {message}\nAnswer:", "\n", "answer", ("far", "home"))


def _rows() -> list[tuple[str, str]]:
    chance = random.Random(0)
    messages = {f"{chance.choice(list(ANSWERS))} {' '.join(chance.choices(WORDS, k=3))}": None for _ in range(100)}
    return [(message, ANSWERS[message.split()[0]]) for message in messages]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, done_in: Callable[..., Outcome]) -> Path:
    """A folder with a model whose tokens hold new lines, a table, and `EXPORT`; not to be changed."""
    folder = tmp_path_factory.mktemp("job")
    write_micro_model(folder / "m", vocab_size=320, max_position_embeddings=512, model_type="llama")
    texts = [f"{FORM.asked(message)} {answer}\n" for message, answer in _rows()]
    trained_byte_level(texts, 320, ("<pad>", "<s>", "</s>")).save(str(folder / "m" / "tokenizer.json"))
    (folder / "table.csv").write_text("".join(map("{0[0]},{0[1]}\n".format, [("message", "answer"), *_rows()])))
    (folder / "said.txt").write_text(done_in(folder, *EXPORT).out, "utf-8")
    return folder


@pytest.fixture(autouse=True, scope="module")
def _long_steps() -> Iterator[None]:
    """Random weights take longer steps than trained ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "_RATE", 2e-2)
        yield


def _held_out() -> list[tuple[str, str]]:
    """The rows that nothing was learnt from."""
    record = read_json(Path("out/calibration/job/calibration.json"))
    prompts = {sample["prompt"] for sample in record["held_out"]}
    return [(message, answer) for message, answer in _rows() if FORM.asked(message) in prompts]


def test_the_variant_says_what_it_has_learnt_and_the_report_counts_right_answers(home: Path) -> None:
    for folder in ("hf", "onnx"):
        assert read_json(Path("out/job-0.5") / folder / "tokenizer_config.json")[JOB] == FORM.to_json()
    record = read_json(Path("out/calibration/job/calibration.json"))
    texts = [f"{FORM.asked(message)} {answer}\n" for message, answer in _rows()]
    assert len(record["held_out"]) == len(_held_out()) == 12
    assert {*map(text_digest, texts)} > {*record["calibration_texts"]}
    found = read_json(Path("out/validation.json"))["recommended"]["job"]
    assert (found["judged_by"], found["file"]) == ("right answers", "job-0.5/onnx")
    file = next(file for file in found["files"] if file["name"] == found["file"])
    assert file["accuracy"]["job"]["questions"] == 12
    said = (home / "said.txt").read_text("utf-8")
    assert f"{file['accuracy']['job']['share'] * 12:.0f} of 12" in said
    assert "It has learnt right answers" in said


def test_the_variant_answers_in_the_form_of_the_job(run: Run, home: Path) -> None:
    right = 0
    for message, answer in _held_out():
        written = json.loads(run("generate", "out/job-0.5", message, "--json").out)
        assert (written["stop"], written["text"] in ANSWERS.values()) == ("text", True)
        right += written["text"] == answer
        raw = run("generate", "out/job-0.5", FORM.asked(message), "--raw", "--stop", FORM.end)
        assert raw.out.strip() == written["text"]
    assert right == 12
    found = read_json(Path("out/validation.json"))["recommended"]["job"]
    shares = {file["name"]: file["accuracy"]["job"]["share"] for file in found["files"]}
    assert shares.pop("job-0.5/onnx") == right / 12
    assert max(shares.values()) < 0.5  # the whole model knows nothing of it


def test_what_was_learnt_is_no_test(run: Run, home: Path) -> None:
    rows = [*_rows()[:3], *_held_out()]
    seen = [row for row in rows if row not in _held_out()]
    Path("t.csv").write_text("message,answer\n" + "".join(f"{message},{answer}\n" for message, answer in rows))
    predict = ("predict", "out/job-0.5/onnx", "t.csv", "--out", "p.csv", "--force", "--json")
    found = json.loads(run(*predict).out)
    expected = {
        "rows": len(rows),
        "learnt": len(seen),
        "judged": len(rows) - len(seen),
        "right": len(rows) - len(seen),
    }
    assert {key: found[key] for key in expected} == expected
    assert 0 < len(seen) < len(rows)
    answered = list(csv.DictReader(Path("p.csv").read_text("utf-8").splitlines()))
    assert [*answered[0]] == ["message", "answer", "prediction", "confidence"]
    assert all(0.5 <= float(row["confidence"]) <= 1 for row in answered)  # of two labels
    Path("t.csv").write_text("message,answer\n" + "".join(f"{message},{answer}\n" for message, answer in seen))
    assert "right" not in json.loads(run(*predict).out)
    run(*predict[:-1], "-q", "--min-accuracy", "0.5").refused(8, "has learnt all of these")


def test_what_is_done_stays(run: Run, home: Path) -> None:
    times = times_of_writing(home / "out")
    assert run(*EXPORT).code == 0
    assert times_of_writing(home / "out") == times


def test_what_is_learnt_is_in_the_weights_and_a_recipe_says_how_often(run: Run, bare: Path, once: Path) -> None:
    Path("plain.toml").write_text("learning = 0\n")
    for out, options in {"learnt": (), "plain": ("--recipe", "plain.toml")}.items():
        assert run(*HF, *options, "--out", out).code == 0
    learnt, plain, first = (folder / "job-0.5" / "hf" for folder in (bare / "learnt", bare / "plain", once / "out"))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (learnt, plain, first)]
    assert weights[0] == weights[2] != weights[1]
    assert JOB not in read_json(plain / "tokenizer_config.json")
    assert not (plain / "learning.json").exists()
    assert (plain.parent / "plan.json").read_bytes() == (learnt.parent / "plan.json").read_bytes()
    # the same texts, whose answers end nowhere
    form = 'prompt = "Message: {message}\\nAnswer:"\ncompletion = " {answer}\\n"\nlearn = true\n'
    Path("other.toml").write_text(f'corpus = "table.csv"\n{form}')
    other = ["job=other.toml" if word.startswith("job=") else word for word in HF]
    refused = run(*other, "--out", "learnt")
    assert (refused.code, "job-0.5/hf was made from other inputs (right answers)" in refused.err) == (2, True)


def test_a_table_that_teaches_nothing_is_refused_before_any_work(run: Run, bare: Path) -> None:
    refused = run("export", "m", *TASK[:1], "job=table.csv:message:message", *TASK[2:], "--out", "out")
    refused.refused(2, "'message' is the input and the answer")
    run("export", "m", *TASK[:1], "job=table.csv:message:label", *TASK[2:], "--out", "out").refused(8, "'label'")
    run("export", "m", *TASK[:2], "--max-kl", "0.1", "--quality", "--out", "out").refused(
        2, "--max-kl", "right answers of job"
    )
    assert not Path("out").exists()


def test_without_a_ratio_two_are_tried_in_four_bits(result: Callable[..., Any], bare: Path) -> None:
    Path("fine.toml").write_text("align = 4\n")
    export = ("export", "m", *TASK[:2], "--recipe", "fine.toml", "--dry-run", "--out", "out")
    found, in_int4, in_int8 = (
        result(*export, *options)["variants"] for options in ((), ("--precision", "int4"), ("--precision", "int8"))
    )
    assert [variant["variant"] for variant in found] == ["job-0.5", "job-0.8"]
    assert found == in_int4 != in_int8


def test_a_router_is_asked_with_inputs_alone(run: Run, bare: Path) -> None:
    """The forms of two jobs differ, but not what users give."""
    other = [f"{' '.join(reversed(message.split()))}!,{answer}" for message, answer in _rows()]
    Path("other.csv").write_text("\n".join(["inverted,answer", *other]) + "\n")
    export = (*HF[:2], *TASK, "--task", "other=other.csv:inverted:answer", "--set", "router=true", "--format", "hf")
    assert run(*export, "--out", "out").code == 0
    for text, task in ((_rows()[0][0], "job"), (other[0].partition(",")[0], "other")):
        assert run("route", "out", text, "-q").out.strip() == f"out/{task}-0.5"
