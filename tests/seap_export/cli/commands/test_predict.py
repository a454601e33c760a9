"""A table of inputs is answered row by row, in the form that the variant has learnt."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from support.calibration import Killed, die_at
from support.editing import list_again
from support.exports import Run
from support.product import Job, note_job
from support.tokenizers import name_all_tokens

from seap_export import Variant
from seap_export.errors import UsageError
from seap_export.runtime import Generator

WORDS = ("cat", "mat", "dog", "home", "on", "sat on a mat", "the cat sat")
COMMAND = ("predict", "out/a-0.2", "in.csv", "--out", "answers.csv", "--max-new-tokens", 9, "--batch-size", 2)


@pytest.fixture
def generator(done: Path) -> Generator:
    """A variant that has learnt a job, and a table of inputs beside it."""
    folder = name_all_tokens(done / "a-0.2" / "onnx")
    end = Generator(folder).generate("the cat on", 9).split()[3]
    note_job(folder, Job("the {text} on", f" {end}", "right"))
    list_again(folder)
    rows = (f"{row},{word}\n" for row, word in enumerate(WORDS))
    Path("in.csv").write_text("".join(["number,text\n", *rows]))
    return Generator(folder)


def table(path: str = "answers.csv") -> list[dict[str, str]]:
    return list(csv.DictReader(Path(path).read_text("utf-8").splitlines()))


def test_each_row_has_the_answer_that_the_variant_gives_to_it(run: Run, generator: Generator) -> None:
    expected = [generator.generate(word, 9).rstrip() for word in WORDS]
    outcome = run(*COMMAND)
    assert (outcome.code, outcome.out.splitlines()[0]) == (0, "answers.csv: 7 answers")
    rows = [{"number": str(row), "text": word, "prediction": expected[row]} for row, word in enumerate(WORDS)]
    assert table() == rows
    assert not Path("answers.csv.part").exists()
    Path("in.jsonl").write_text("".join(json.dumps({"text": word, "n": [1]}) + "\n" for word in WORDS), "utf-8")
    assert run("predict", "out/a-0.2/onnx", "in.jsonl", "--out", "o.jsonl", "--max-new-tokens", 9).code == 0
    lines = [json.loads(line) for line in Path("o.jsonl").read_text("utf-8").splitlines()]
    assert lines == [{"text": row["text"], "n": [1], "prediction": row["prediction"]} for row in rows]
    assert run("predict", "out/a-0.2", "in.jsonl", "--out", "o.csv", "--max-new-tokens", 9).code == 0
    assert table("o.csv")[0] == {"text": "cat", "n": "[1]", "prediction": expected[0]}
    variant = Variant("out/a-0.2")
    given = [word if row % 2 else {"text": word} for row, word in enumerate(WORDS)]
    assert variant.predict(given, max_new_tokens=9, batch_size=3) == expected
    assert variant.predict([]) == []


def test_right_answers_in_the_table_are_counted_and_wrong_ones_shown(run: Run, generator: Generator) -> None:
    right = [generator.generate(word, 9).rstrip() for word in WORDS]
    rows = [{"text": word, "right": f" {right[row]} " if row < 5 else "else"} for row, word in enumerate(WORDS)]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = ("predict", "out/a-0.2", "in.jsonl", "--out", "answers.csv", "--max-new-tokens", 9)
    said = run(*command).out
    assert "right: 5 of 7, 71.4% (36 to 92%)" in said
    assert f"line 6: {right[5]!r} for 'else'" in said
    found = json.loads(run(*command, "--force", "--json").out)
    assert {key: found[key] for key in ("rows", "fresh", "right", "out")} == {
        "rows": 7, "fresh": 7, "right": 5, "out": "answers.csv"
    }  # fmt: skip
    assert found["wrong"][1] == {"row": "line 7", "prediction": right[6], "answer": "else"}
    assert found["unfinished"] == sum(answer.stop == "length" for answer in generator.complete(WORDS, 9)) > 0
    gated = (*command, "--force", "-q", "--min-accuracy")
    run(*gated, 0.72).refused(4, "71.43% of the answers are right, below 72.00%")
    assert run(*gated, 0.71).code == 0
    del rows[3]["right"]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert "right" not in json.loads(run(*command, "--force", "--json").out)
    run(*gated, 0.1).refused(8, "line 4: field 'right' is missing")


def test_what_a_broken_run_has_answered_is_not_answered_again(
    run: Run, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off() -> None:
        with monkeypatch.context() as patch:
            die_at(patch, Generator, "complete", 2)
            with pytest.raises(Killed):
                run(*COMMAND)

    assert run(*COMMAND).code == 0
    whole = Path("answers.csv").read_bytes()
    Path("answers.csv").unlink()
    part = Path("answers.csv.part")
    for damage, left in ((None, 3), (lambda: part.write_bytes(part.read_bytes()[:-5]), 4)):
        broken_off()
        assert not Path("answers.csv").exists()
        if damage:
            damage()
        found = json.loads(run(*COMMAND, "--json").out)
        assert (found["rows"], found["fresh"]) == (7, left)
        assert (Path("answers.csv").read_bytes(), part.exists()) == (whole, False)
        Path("answers.csv").unlink()
    # of another table, other settings, or a damaged file, all is answered
    for change in (
        lambda: Path("in.csv").write_text(Path("in.csv").read_text("utf-8") + "7,cat\n"),
        lambda: part.write_text(part.read_text("utf-8") + "{\n"),
        lambda: part.write_text("{}\n" + part.read_text("utf-8")),
    ):
        broken_off()
        change()
        found = json.loads(run(*COMMAND, "--json").out)
        assert found["fresh"] == found["rows"]
        Path("answers.csv").unlink()
    broken_off()
    assert json.loads(run(*COMMAND[:-3], 8, "--json").out)["unfinished"] > 0


@pytest.mark.parametrize(
    ("table", "out", "code", "words"),
    [
        ("text\ncat\n", "answers.txt", 2, ".csv or .jsonl"),
        ("text\ncat\n", "kept.csv", 2, "--force"),
        ("text\ncat\n", "out/a-0.2/answers.csv", 2, "a path outside it"),
        ("text,prediction\ncat,x\n", "answers.csv", 8, "'prediction'"),
        ("word\ncat\n", "answers.csv", 8, "record 1: field 'text' is missing"),
        (f"text\ncat\n{'cat ' * 600}\n", "answers.csv", 8, "record 2: the prompt has"),
    ],
)
def test_bad_input_is_refused_before_anything_is_answered(
    run: Run, generator: Generator, table: str, out: str, code: int, words: str
) -> None:
    Path("kept.csv").write_text("kept")
    Path("in.csv").write_text(table)
    run("predict", "out/a-0.2", "in.csv", "--out", out).refused(code, words)
    assert Path("kept.csv").read_text() == "kept"
    assert [path.name for path in Path().glob("*answers*")] == []


def test_a_variant_without_a_job_is_refused(run: Run, done: Path) -> None:
    Path("in.csv").write_text("text\ncat\n")
    run(*COMMAND).refused(2, "has learnt no job", "generate")
    run("predict", "out/a-0.2", "none.csv", "--out", "answers.csv").refused(2, "none.csv")
    name_all_tokens(done / "a-0.2" / "onnx")
    with pytest.raises(UsageError, match="has learnt no job"):
        Variant(done / "a-0.2").predict(["cat"])
    with pytest.raises(UsageError, match="a record, which only"):
        Generator(done / "a-0.2" / "onnx").complete([{"text": "cat"}], 1)
