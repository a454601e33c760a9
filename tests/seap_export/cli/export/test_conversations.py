"""Conversations as corpora of every command: rendered by the model's chat template."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.conversations import conversations, write_chat_model, write_records
from support.corpora import WORDS, write_corpus
from support.exports import Outcome, Run

from seap_export import Variant
from seap_export.common.json_file import read_json
from seap_export.corpus import text_digest
from seap_export.runtime import Generator, RoutedModel

FEW = ("--set", "samples=8", "--set", "held_out=4", "--out", "out")
EXPORT = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.4", *FEW, "-q")
BOTH = (*EXPORT, "--task", "b=b.jsonl", "--quality")
RECORD = Path("out/calibration/a/calibration.json")
WORDS_OF = {"a": WORDS[:8], "b": WORDS[8:]}


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, done_in: Callable[..., Outcome]) -> Path:
    """A folder with a model that has a chat template, and `BOTH`, made from conversations; not to be changed."""
    folder = tmp_path_factory.mktemp("conversations")
    write_chat_model(folder / "m")
    for name, words in WORDS_OF.items():
        write_records(folder / f"{name}.jsonl", conversations(30, words))
    done_in(folder, *BOTH)
    return folder


def test_an_export_is_made_from_rendered_conversations(run: Run, home: Path) -> None:
    turns = [[turn["content"] for turn in record["messages"]] for record in conversations(30, WORDS_OF["a"])]
    samples = {(f" one on{user}</s> and far on", f"{text}</s> and", user) for user, text in turns}
    record = read_json(RECORD)
    assert set(record["calibration_texts"]) <= {text_digest(prompt + text) for prompt, text, _ in samples}
    assert {tuple(sample.values()) for sample in record["held_out"]} < samples
    assert [run(*BOTH, *more).code for more in ((), ("--dry-run",))] == [0, 0]  # nothing has changed
    refused = run("evaluate", "out/a-0.4", "--dense", "m", "--text", "a=a.jsonl", "-q")
    refused.refused(8, "8 of the 30 evaluated texts were used for calibration")


def test_variants_answer_in_the_chat_template_and_are_chosen_without_it(run: Run, home: Path) -> None:
    for name, words in WORDS_OF.items():
        questions = [record["messages"][0]["content"] for record in conversations(30, words)]
        sample = read_json(home / "out" / f"{name}-0.4" / "quality.json")["sample"]
        generator = Generator(home / "out" / f"{name}-0.4" / "onnx")
        assert sample["prompt"] in questions
        assert sample["variant"] == generator.generate(sample["prompt"], 64)
        assert generator.tokenizer.token_to_id("</s>") in generator.chat_template.turn_ends(generator.tokenizer)
        assert {RoutedModel("out").route(question).task for question in questions} == {name}
    assert run("validate", "out", "-q").code == 0


@pytest.mark.parametrize("is_plain", [True, False])
def test_a_variant_takes_texts_in_the_form_that_it_was_made_from(run: Run, home: Path, is_plain: bool) -> None:
    """Though its model has a chat template; that is for messages, or on request."""
    if is_plain:
        shutil.rmtree("out")
        write_corpus(home / "a.jsonl")
        assert run(*EXPORT).code == 0
        assert run("validate", "out", "-q").code == 0
    generator = Generator("out/a-0.4/onnx")
    question = " the cat sat"
    forms = {raw: generator.generate(question, 8, raw=raw) for raw in (True, False)}
    assert forms[True] != forms[False]
    options = ("--max-new-tokens", 8, "-q")
    assert run("generate", "out/a-0.4", question, *options).out == forms[is_plain] + "\n"
    assert run("generate", "out/a-0.4", question, "--raw", *options).out == forms[True] + "\n"
    assert run("generate", "out/a-0.4", question, "--template", *options).out == forms[False] + "\n"
    assert generator.generate([{"role": "user", "content": question}], 8) == forms[False]
    variant = Variant("out/a-0.4")
    assert variant.generate(question, 8) == "".join(variant.stream(question, 8)) == forms[is_plain]
    assert variant.generate(question, 8, stop=forms[is_plain][-3:]) == forms[is_plain][:-3]
