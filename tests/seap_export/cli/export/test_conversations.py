"""Conversations as corpora of every command: rendered by the model's chat template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.conversations import conversations, write_chat_model, write_records
from support.corpora import WORDS, write_corpus
from support.exports import Outcome, Run
from support.tokenizers import write_byte_level

from seap_export import Variant
from seap_export.corpus import text_digest
from seap_export.runtime import Generator, RoutedModel

FEW = ("--set", "samples=8", "--set", "held_out=4", "--out", "out")
EXPORT = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.4", *FEW, "-q")
BOTH = (*EXPORT, "--task", "b=b.jsonl", "--quality")
CALIBRATE = ("calibrate", "m", "--task", "a=a.jsonl", "--samples", "8", "--held-out", "4", "--out", "out", "-q")
WORDS_OF = {"a": WORDS[:8], "b": WORDS[8:]}


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, done_in: Callable[..., Outcome]) -> Path:
    """A folder with a model that has a chat template, and `BOTH`, made from conversations; not to be changed."""
    folder = tmp_path_factory.mktemp("conversations")
    write_chat_model(folder / "m")
    for name, words in WORDS_OF.items():
        write_records(folder / f"{name}.jsonl", conversations(30, words))
    outcome = done_in(folder, *BOTH)
    warnings = [line for line in outcome.err.splitlines() if "achieved ratio" not in line]
    assert [line.split(" by ")[0] for line in warnings] == [f"Warning: {name}-0.4 is beaten" for name in WORDS_OF]
    return folder


def _record() -> dict[str, Any]:
    record: dict[str, Any] = json.loads(Path("out/calibration/a/calibration.json").read_text())
    return record


def test_an_export_is_made_from_rendered_conversations(run: Run, home: Path) -> None:
    turns = [record["messages"] for record in conversations(30, WORDS_OF["a"])]
    texts = {
        text_digest(f" one on{user['content']}</s> and far on{text['content']}</s> and"): (user, text)
        for user, text in turns
    }
    record = _record()
    assert set(record["calibration_texts"]) <= texts.keys()
    assert [tuple(sample.values()) for sample in record["held_out"]] == [
        (f" one on{user['content']}</s> and far on", f"{text['content']}</s> and", user["content"])
        for user, text in (
            texts[text_digest(sample["prompt"] + sample["completion"])] for sample in record["held_out"]
        )
    ]
    assert [run(*BOTH, *more).code for more in ((), ("--dry-run",))] == [0, 0]  # nothing has changed
    refused = run("evaluate", "out/a-0.4", "--dense", "m", "--text", "a=a.jsonl", "-q")
    refused.refused(8, "8 of the 30 evaluated texts were used for calibration")


def test_variants_answer_in_the_chat_template_and_are_chosen_without_it(run: Run, home: Path) -> None:
    for name, words in WORDS_OF.items():
        questions = [record["messages"][0]["content"] for record in conversations(30, words)]
        sample = json.loads((home / "out" / f"{name}-0.4" / "quality.json").read_text())["sample"]
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


def test_a_model_without_a_chat_template_says_so_once(run: Run, bare: Path) -> None:
    write_byte_level(bare / "m", chat_template=None)
    outcome = run(*CALIBRATE, "--task", "b=b.jsonl")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("m has no chat template") == 1
    user, answer = _record()["held_out"][0]["prompt"], _record()["held_out"][0]["completion"]
    assert {
        "messages": [{"role": "user", "content": user.removesuffix("\n\n")}, {"role": "assistant", "content": answer}]
    } in conversations(30, WORDS_OF["a"])


@pytest.mark.parametrize(
    ("command", "turns", "words"),
    [
        (EXPORT, [{"role": "system", "content": " the"}, {"role": "user", "content": " cat"}], "no system"),
        (CALIBRATE, [{"role": "user"}], "content"),
    ],
    ids=["export", "calibrate"],
)
def test_a_broken_conversation_is_refused_and_nothing_written(
    run: Run, bare: Path, command: tuple[str, ...], turns: list[Any], words: str
) -> None:
    write_records(bare / "a.jsonl", [*conversations(30), {"messages": turns}])
    run(*command).refused(8, "a.jsonl, line 31", words)
    assert not (bare / "out").exists()
