"""Variants that learn from what the dense model writes: `export --answers model`, and `fresh_tokens` in a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.conversations import conversations, write_chat_model, write_records
from support.exports import Outcome, Run, times_of_writing
from support.models import greedy_completions
from support.product import read_tokens
from tokenizers import Tokenizer

from seap_export.common.json_file import read_json
from seap_export.corpus import text_digest
from seap_export.model.vocabulary import choice
from seap_export.pipeline.steps.single import answers

STEPS = 24
OPTIONS = ("--answers", "model", "--set", f"answer_tokens={STEPS}", "--set", "held_out=4", "--out", "out", "-q")
EXPORT = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.4", *OPTIONS)
HF = ("--format", "hf")
FRESH = (*EXPORT[:6], "--recipe", "fresh.toml", "--set", "held_out=4", *HF, "--out", "out")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, done_in: Callable[..., Outcome]) -> Path:
    """A folder with a model that has a chat template, 20 conversations, and `EXPORT`, measured; not to be changed."""
    folder = tmp_path_factory.mktemp("answers")
    write_chat_model(folder / "m")
    write_records(folder / "a.jsonl", conversations(20))
    (folder / "fresh.toml").write_text("min_tokens = 0\nfresh_tokens = 500\n")
    outcome = done_in(folder, *EXPORT[:-1], "--quality")
    assert outcome.err.splitlines().count("hashing m") == 1
    return folder


@pytest.fixture(autouse=True, scope="module")
def _small_batches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "_BATCH", 4)
        yield


def _prompt(record: dict[str, Any]) -> str:
    return f" one on{record['messages'][0]['content']}</s> and far on"


def _lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("out/answers/a/answers.jsonl").read_text("utf-8").splitlines()]


def _texts() -> list[str]:
    return [line["prompt"] + line["completion"] for line in _lines()]


def test_variants_are_made_from_the_answers_of_the_model(run: Run, home: Path) -> None:
    lines, prompts = _lines(), list(map(_prompt, conversations(20)))
    assert {line["prompt"] for line in lines} == set(prompts)
    written = dict(zip(prompts, greedy_completions(home / "m", prompts, STEPS), strict=True))
    for line in lines:
        written_answer = written[line["prompt"]]
        assert (line["completion"], line["finished"]) == (
            written_answer.text + "</s> and" * written_answer.is_ended,
            written_answer.is_ended,
        )
    assert {line["finished"] for line in lines} == {True, False}
    record = read_json(Path("out/calibration/a/calibration.json"))
    assert [sample["prompt"] + sample["completion"] for sample in record["held_out"]] == _texts()[:4]
    assert record["calibration_texts"] == sorted(map(text_digest, _texts()[4:]))
    assert read_json(Path("out/manifest.json"))["tasks"]["a"]["answers"] == "model"
    times = times_of_writing(home / "out/answers")
    again = run(*EXPORT[:-1])
    assert times_of_writing(home / "out/answers") == times
    assert again.code == 0
    for text in (again.out, run("inspect", "out").out, Path("out/validation.html").read_text("utf-8")):
        assert "The answers in the texts of a were written by the dense model." in text
    assert "`a.jsonl`, answered by the dense model" in Path("out/a-0.4/hf/README.md").read_text("utf-8")
    questions = ("--text", "a=a.jsonl", "--dense", "m", "-q")  # the same prompts, with the answers of the data
    run("evaluate", "out/a-0.4", *questions).refused(8, "16 of the 20 evaluated texts")


def test_only_as_many_prompts_are_answered_as_there_are_tokens(run: Run, bare: Path) -> None:
    assert run(*EXPORT, *HF, "--calibration-tokens", "60").code == 0
    tokenizer = Tokenizer.from_file("m/tokenizer.json")
    lengths = [len(tokenizer.encode(text).ids) for text in _texts()[4:]]
    assert 60 - max(lengths) < sum(lengths) <= 60
    assert read_json(Path("out/manifest.json"))["tasks"]["a"]["calibration_tokens"] == sum(lengths)


def test_a_further_task_is_answered_beside_variants_that_keep_some_tokens(
    run: Run, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "MULTIPLE", 1)
    write_records(bare / "b.jsonl", conversations(20)[:16])
    cut = (*EXPORT, "--vocabulary", "auto", *HF)
    assert run(*cut).code == 0
    times = times_of_writing(bare / "out/a-0.4/hf")
    outcome = run(*cut, "--task", "b=b.jsonl")
    assert outcome.code == 0, outcome.err
    assert {path: at for path, at in times_of_writing(bare / "out/a-0.4/hf").items() if path in times} == times


def test_what_has_no_prompt_is_refused(run: Run, bare: Path) -> None:
    write_records(bare / "a.jsonl", [*conversations(20), {"text": " the cat"}])
    run(*EXPORT).refused(8, "a.jsonl, line 21", "prompt", "--answers")
    assert not (bare / "out").exists()


def test_prompts_of_texts_end_where_the_task_says(run: Run, bare: Path) -> None:
    """A record need not have a completion."""
    prompts = [record["messages"][0]["content"] for record in conversations(20)]
    write_records(bare / "b.jsonl", [{"prompt": prompt} for prompt in prompts])
    likely = greedy_completions(bare / "m", prompts[:1], STEPS)[0].text
    stop = likely.split()[1]
    (bare / "a.toml").write_text(f'corpus = "b.jsonl"\nprompt = "{{prompt}}"\nanswer = "(.*)"\nstop = ["{stop}"]\n')
    assert run("export", "m", "--task", "a=a.toml", "--ratio", "0.4", *HF, *OPTIONS).code == 0
    written = {line["prompt"]: line for line in _lines()}
    assert set(written) == set(prompts)
    assert written[prompts[0]]["completion"] == likely[: likely.index(stop)] + stop
    assert written[prompts[0]]["finished"]


def test_variants_learn_from_fresh_texts_that_are_written_once(run: Run, bare: Path) -> None:
    planned = json.loads(run(*FRESH, "--dry-run", "--json").out)
    assert planned["variants"][0]["fresh_tokens"] > 0
    outcome = run(*FRESH)
    assert outcome.code == 0
    texts = read_tokens(bare / "out/fresh/a/tokens.safetensors")
    tokens = sum(map(len, texts))
    manifest = read_json(Path("out/manifest.json"))
    assert 500 - manifest["tasks"]["a"]["calibration_tokens"] <= tokens < 500
    assert f"a: {tokens:,} tokens in {len(texts)} fresh texts" in outcome.err
    plan = read_json(Path("out/a-0.4/plan.json"))
    assert (plan["distillation"], plan["fresh_tokens"], plan["method"]) == (1.0, 500, "reconstruct")
    assert manifest["variants"]["a-0.4"]["fresh_tokens"] == {"a": tokens}
    prune = ("prune", "m", "--plan", "out/a-0.4/plan.json", "--calibration", "out/calibration/a", "--out", "again")
    assert run(*prune).code == 0
    weights = [Path(folder, "model.safetensors").read_bytes() for folder in ("again", "out/a-0.4/hf")]
    assert weights[0] == weights[1]
    (bare / "plain.toml").write_text("min_tokens = 0\n")
    plain = [{"fresh.toml": "plain.toml", "out": "plain"}.get(word, word) for word in FRESH]
    assert run(*plain).code == 0
    assert weights[0] != Path("plain/a-0.4/hf/model.safetensors").read_bytes()
    assert not (bare / "plain/fresh").exists()


def test_a_task_with_enough_texts_gets_no_others_and_a_recipe_says_how_many_are_enough(run: Run, bare: Path) -> None:
    def planned(recipe: str, *options: str) -> tuple[int, bool]:
        (bare / "fresh.toml").write_text(recipe)
        report = json.loads(run(*FRESH, *options, "--dry-run", "--json").out)
        return report["variants"][0]["calibration_texts"], report["variants"][0]["fresh_tokens"] > 0

    every, has_fresh = planned("fresh_tokens = 100\n")
    assert not has_fresh
    few, has_fresh = planned("calibration_tokens = 50\nfresh_tokens = 100\n")
    assert few < every
    assert has_fresh
    assert planned("calibration_tokens = 50\n", "--calibration-tokens", "10000") == (every, False)
    assert planned("calibration_tokens = 50\n", "--set", f"samples={every}") == (every, False)
