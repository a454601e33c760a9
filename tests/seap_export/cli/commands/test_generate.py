from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support.editing import edit_json, list_again
from support.exports import Run
from support.tokenizers import add_chat_template, name_all_tokens

from seap_export.cli import main
from seap_export.runtime import Generator, Sampling

PROMPT = "the cat sat on a mat"


@pytest.fixture
def expected(done: Path) -> Generator:
    return Generator(name_all_tokens(done / "a-0.2" / "onnx"))


def test_it_prints_the_text(run: Run, expected: Generator) -> None:
    command = ("generate", "out/a-0.2", PROMPT, "--max-new-tokens", 12)
    whole = expected.generate(PROMPT, 12)
    outcome = run(*command)
    assert (outcome.code, outcome.err, outcome.out) == (0, "", whole + "\n")
    assert run("generate", "out/a-0.2/onnx", PROMPT, "--threads", 1).out == expected.generate(PROMPT, 64) + "\n"
    sampled = (*command, "--temperature", 1.5, "--seed", 7)
    others = run(*sampled, "--min-p", 0.02, "--repetition-penalty", 1.4).out
    assert others == expected.generate(PROMPT, 12, Sampling(1.5, None, 1.0, 7, 0.02, 1.4)) + "\n"
    narrow = run(*sampled, "--top-k", 4, "--top-p", 0.8).out
    assert narrow == expected.generate(PROMPT, 12, Sampling(1.5, 4, 0.8, 7)) + "\n"
    word = whole.split()[4]
    stopped = (*command, "--stop", "no such text", "--stop", word)
    assert run(*stopped).out == whole.partition(word)[0] + "\n"
    answer = json.loads(run(*stopped, "--json").out)
    assert (answer["text"], answer["stop"]) == (whole.partition(word)[0], "text")


def test_a_chat_model_is_given_the_prompt_in_its_template(run: Run, expected: Generator, done: Path) -> None:
    add_chat_template(done / "a-0.2" / "onnx")
    command = ("generate", "out/a-0.2", "sat on", "--max-new-tokens", 9)
    for options, text in (
        ((), "cat sat on home dog"),
        (("--system", "a mat"), "dog a mat home cat sat on home dog"),
        (("--raw",), "sat on"),
    ):
        assert run(*command, *options).out == expected.generate(text, 9) + "\n"
        assert json.loads(run(*command, *options, "--json").out)["prompt_tokens"] == len(text.split())


def test_a_prompt_from_stdin_is_answered_as_the_answer_comes(
    run: Run, expected: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = CliRunner().invoke(main, ["generate", "out/a-0.2", "-", "--max-new-tokens", "9"], input=PROMPT + "\n")
    assert piped.stdout == expected.generate(PROMPT, 9) + "\n"
    assert CliRunner().invoke(main, ["generate", "out/a-0.2", "-"], input=b"\xff").stderr == (
        "Error: -: not UTF-8 text; save it as UTF-8\n"
    )
    printed: list[str] = []
    monkeypatch.setattr(click, "echo", lambda text="", nl=True, **_: printed.append(text))
    run("generate", "out/a-0.2", PROMPT, "--max-new-tokens", 9)
    assert printed == [*expected.stream(PROMPT, 9), ""]
    assert len(printed) > 3


def test_a_full_context_is_told(run: Run, done: Path) -> None:
    config = done / "a-0.2" / "onnx" / "genai_config.json"
    edit_json(config, lambda values: values["model"].update(context_length=10, eos_token_id=96))
    list_again(config.parent)
    outcome = run("generate", "out/a-0.2", PROMPT)
    assert (outcome.code, outcome.err) == (0, "the model's context is full\n")
    assert run("generate", "out/a-0.2", PROMPT, "--quiet").err == ""
    assert json.loads(run("generate", "out/a-0.2", PROMPT, "--json").out)["stop"] == "context"
