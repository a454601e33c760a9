from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from support.editing import list_again, set_json
from support.tokenizers import add_chat_template, name_all_tokens

from seap_export.cli import main
from seap_export.runtime import Generator
from seap_export.runtime.chat import PLAIN, TEXT_FORM

STATS = r"\[\d+ tokens(, [\d.]+ tokens/s)?, the first after [\d.]+ s(; [\w' ]+)?\]\n"


@pytest.fixture
def expected(done: Path) -> Generator:
    """The variant without a chat template, which gives what any other form gives for the same text."""
    return Generator(name_all_tokens(done / "a-0.2" / "onnx"))


def said(*options: object, lines: str | bytes) -> Result:
    few = () if "--max-new-tokens" in options else ("--max-new-tokens", 9)
    command = ["chat", "out/a-0.2", *few, *options]
    return CliRunner().invoke(main, [str(each) for each in command], input=lines)


def test_each_line_is_a_turn_that_knows_those_before(expected: Generator, done: Path) -> None:
    add_chat_template(done / "a-0.2" / "onnx")
    first = expected.generate("cat the cat home dog", 9)
    second = expected.generate(f"cat the cat home dog {first} home cat sat on home dog", 9)
    outcome = said(lines="the cat\n\nsat on\n/reset\nthe cat\n/exit\nsat on\n")
    assert (outcome.exit_code, outcome.stdout) == (0, f"{first}\n{second}\n{first}\n")
    assert re.fullmatch(STATS * 3, outcome.stderr)
    assert said("--quiet", lines="the cat").stderr == ""
    Path("turns.txt").write_text("the cat\n/exit\n")
    (turn,) = json.loads(said("--prompt-file", "turns.txt", "--json", lines="").stdout)["turns"]
    assert turn == {"prompt": "the cat", "text": first, "prompt_tokens": 5, "tokens": 9, "stop": "length"}
    assert said("--system", "a mat", lines="the cat").stdout == (
        expected.generate("dog a mat home cat the cat home dog", 9) + "\n"
    )


@pytest.mark.parametrize(
    ("template", "options", "reason"),
    [
        (None, [], "this model has no chat template"),
        (PLAIN, [], "this variant was made from plain texts"),
        (PLAIN, ["--raw"], None),
    ],
)
def test_a_variant_that_knows_no_turns_is_named(
    expected: Generator, done: Path, template: str | None, options: list[str], reason: str | None
) -> None:
    if template is not None:
        add_chat_template(done / "a-0.2" / "onnx")
        set_json(done / "a-0.2" / "onnx" / "tokenizer_config.json", **{TEXT_FORM: template})
        list_again(done / "a-0.2" / "onnx")
    stderr = said("--quiet", *options, lines="the cat\nsat on\n").stderr
    assert (stderr == "") == (reason is None)
    if reason is not None:
        assert [word for word in (f"Warning: out/a-0.2: {reason}", "generate") if word not in stderr] == []
        assert stderr.count("\n") == 1


def test_ctrl_c_stops_an_answer_and_not_the_program(expected: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    echo, printed = click.echo, []

    def interrupting(text: Any = "", nl: bool = True, **more: Any) -> None:
        echo(text, nl=nl, **more)
        printed.append(text)
        if len(printed) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(click, "echo", interrupting)
    outcome = said(lines="the cat\n/reset\nthe cat\n")
    whole = expected.generate("the cat", 9)
    first, second = outcome.stdout.removesuffix("\n").split("\n")
    assert second == whole
    assert whole.startswith(first)
    assert 0 < len(first) < len(whole)
    assert "; stopped]" in outcome.stderr
    assert (outcome.exit_code, signal.getsignal(signal.SIGINT)) == (0, before)


def test_bad_input(expected: Generator) -> None:
    for options, lines, code, word in (
        (["--system", "a"], "the", 2, "out/a-0.2: this model has no chat template"),
        ([], b"\xff\n", 8, "stdin: not UTF-8"),
        ([], "cat " * 200, 8, "the model's context is"),
    ):
        outcome = said(*options, lines=lines)
        assert (outcome.exit_code, outcome.stdout, outcome.stderr.count("\n")) == (code, "", 1)
        assert word in outcome.stderr
