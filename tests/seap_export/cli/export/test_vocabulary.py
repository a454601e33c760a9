"""`--vocabulary` through every command: variants that keep the tokens of their tasks."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.corpora import WORDS
from support.exports import CARD, Outcome, Run, tree
from support.models import write_micro_model
from support.product import Vocabulary, read_plan
from support.tokenizers import write_byte_level, write_sentencepiece
from support.variations import VARIATIONS
from transformers import AutoModelForCausalLM, AutoTokenizer

from seap_export.model.vocabulary import choice

#: Families, tied and not, with both kinds of tokenizers: its writer, the tokens of the model, those that are kept.
MODELS = {
    "llama-gqa": (write_byte_level, 130, 52),
    "qwen2": (write_byte_level, 130, 52),
    "gemma3-all": (write_sentencepiece, 400, 308),
}
SIZE = MODELS["llama-gqa"][2]


def write_model(folder: Path, variation: str) -> int:
    """A model with a BPE tokenizer, and two corpora, each with its own words; returns how many tokens to keep."""
    write, tokens, kept = MODELS[variation]
    write_micro_model(folder / "m", vocab_size=tokens, **VARIATIONS[variation])
    write(folder / "m")
    chance = random.Random(0)
    for name, words in (("a", WORDS[:6]), ("b", WORDS[7:14])):
        texts = {" ".join(chance.choices(words, k=chance.randint(4, 20))): None for _ in range(30)}
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    return kept


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, done_in: Callable[..., Outcome]) -> Path:
    """A folder with a model and an export of two tasks at ratio 0.4 in `out`; not to be changed."""
    folder = tmp_path_factory.mktemp("cut")
    size = write_model(folder, "llama-gqa")
    tasks = ("--task", "a=a.jsonl", "--task", "b=b.jsonl", "--general", "--set", "weight.b=3")
    done_in(folder, "export", "m", *tasks, "--ratio", 0.4, "--vocabulary", size, "--quality", "--out", "out", "-q")
    return folder


@pytest.mark.parametrize(
    ("variation", "layout"),
    [("qwen2", "uniform"), ("gemma3-all", "per-layer")],
)
def test_texts_of_the_task_get_the_same_tokens_and_at_ratio_0_the_same_logits(
    result: Callable[..., Any], tmp_path: Path, variation: str, layout: str
) -> None:
    size = write_model(tmp_path, variation)
    task, folder = f"a={tmp_path / 'a.jsonl'}", tmp_path / "out/a-0"
    chosen = ("--ratio", 0, "--vocabulary", size, "--layout", layout, "--set", "samples=4", "--set", "held_out=2")
    made = result("export", tmp_path / "m", "--task", task, *chosen, "--out", tmp_path / "out", "-q")
    assert made["variants"]["a-0"]["parity"]["onnx"]["verdict"] == "passed"
    kept = read_plan(folder / "plan.json").vocabulary
    assert kept is not None
    assert (len(kept), kept.of) == (size, MODELS[variation][1])
    _compare_tokens(tmp_path, folder, kept)
    _compare_logits(tmp_path / "m", folder / "hf", kept)


def _compare_tokens(inputs: Path, folder: Path, kept: Vocabulary) -> None:
    """All texts of the task, whether calibrated on, held out or neither."""
    dense = AutoTokenizer.from_pretrained(inputs / "m")
    texts = [json.loads(line)["text"] for line in (inputs / "a.jsonl").read_text("utf-8").splitlines()]
    other = "tome fat moth"
    for form in ("hf", "onnx"):
        cut = AutoTokenizer.from_pretrained(folder / form)
        assert cut.eos_token_id == kept.new_ids[dense.eos_token_id]
        assert cut.chat_template == dense.chat_template
        for text in texts:
            assert cut(text)["input_ids"] == [kept.new_ids[token] for token in dense(text)["input_ids"]]
        assert len(cut(other)["input_ids"]) > len(dense(other)["input_ids"])
        for tokenizer in (dense, cut):
            assert tokenizer.decode(tokenizer(other)["input_ids"], skip_special_tokens=True).strip() == other


def _compare_logits(model: Path, folder: Path, kept: Vocabulary) -> None:
    dense, variant = (
        AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True, dtype=torch.float32)
        for path in (model, folder)
    )
    tables = variant.get_input_embeddings().weight, variant.get_output_embeddings().weight
    assert variant.config.vocab_size == len(kept) == len(tables[0]) == len(tables[1])
    assert variant.config.eos_token_id == variant.generation_config.eos_token_id == kept.new_ids[2]
    rows = torch.from_numpy(kept.rows)
    with torch.no_grad():
        expected, logits = dense(rows[None, :30]).logits[..., rows], variant(torch.arange(30)[None]).logits
    assert torch.equal(logits, expected)


def test_the_steps_by_hand_give_the_same_bytes(run: Run, home: Path) -> None:
    statistics = [part for task in "ab" for part in ("--calibration", f"out/calibration/{task}")]
    texts = [part for task in "ab" for part in ("--task", f"{task}={task}.jsonl")]
    how = ("--weight", "b=3", "--ratio", 0.4, "--vocabulary", SIZE, "--out", "hand.json")
    planned = run("plan", "m", *statistics, *texts, *how)
    assert (planned.code, f"tokens 130 -> {SIZE}" in planned.out) == (0, True)
    assert Path("hand.json").read_bytes() == Path("out/general-0.4/plan.json").read_bytes()
    assert run("prune", "m", "--plan", "hand.json", *statistics, "--out", "hand", "-q").code == 0
    assert tree(Path("hand"), CARD) == tree(Path("out/general-0.4/hf"), CARD)


def test_each_variant_has_its_own_vocabulary_and_the_router_sends_texts_to_them(run: Run, home: Path) -> None:
    kept = {name: read_plan(home / "out" / f"{name}-0.4" / "plan.json").vocabulary for name in ("a", "b", "general")}
    assert all(vocabulary is not None and len(vocabulary) == SIZE for vocabulary in kept.values())
    assert kept["a"] != kept["b"]
    assert run("validate", "out", "-q").code == 0
    answered = run("route", "out", "the cat sat on the mat", "--generate", 3, "--json")
    assert answered.code == 0, answered.err
    tokenizer = home / "out/a-0.4/hf/tokenizer.json"
    shutil.copyfile(home / "m/tokenizer.json", tokenizer)
    assert run("validate", "out", "-q").code == 7


def test_the_comparison_has_what_lost_tokens_cost(result: Callable[..., Any], home: Path) -> None:
    report = json.loads((home / "out/a-0.4/quality.json").read_text("utf-8"))["divergence"]["onnx"]
    assert report["kl_nats_per_byte"] == pytest.approx(report["mean_kl_nats"] * report["tokens"] / report["bytes"])
    cost = report["vocabulary"]
    assert (cost["tokens"], cost["split_bytes"], cost["more_tokens"]) == (SIZE, 0.0, 0.0)
    assert 0.1 < cost["lost_mass"] < cost["lost_kl_nats"]
    assert report["mean_kl_nats"] == pytest.approx(cost["lost_kl_nats"] + cost["kept_kl_nats"])
    assert "to tokens that are gone" in (home / "out/a-0.4/hf/README.md").read_text("utf-8")
    (home / "other.txt").write_text("tome tome fat moth the dog\n\nran from home to see it then\n")
    words = ("--dense", "m", "--text", "other=other.txt", "--runtime", "onnxruntime")
    divergence = result("evaluate", "out/a-0.4", *words)["divergence"]["onnx"]
    assert divergence["bytes"] == len("tome tome fat moth the dog" + "ran from home to see it then")
    assert divergence["bits_per_byte"] > 0 < divergence["dense_bits_per_byte"]


def test_what_cannot_be_cut_is_refused_in_one_line(run: Run, home: Path) -> None:
    export = ("export", "m", "--task", "a=a.jsonl", "--ratio", 0.4, "--out", "x", "-q", "--vocabulary")
    least = int(run(*export, 1).refused(2, "too small", "at least").split("at least ")[1].split(",")[0])
    run(*export, least - 1).refused(2, "too small", str(least))
    dry = run(*export[:-2], "--vocabulary", least, "--dry-run")
    assert (dry.code, f"of the tokens will be missing from the {least} that" in dry.err) == (0, True)
    plan = ("plan", "m", "--calibration", "out/calibration/a", "--ratio", 0.4, "-q")
    run(*plan, "--vocabulary", "auto", "--task", "b=b.jsonl").refused(2, "--task", "a")
    run(*plan, "--task", "a=a.jsonl").refused(2, "--task", "--vocabulary")


@pytest.mark.release
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gguf:mixed-5", marks=pytest.mark.needs("llama.cpp")),
        pytest.param("openvino:mixed-6", marks=pytest.mark.needs("openvino")),
        pytest.param("litert", marks=pytest.mark.needs("litert")),
        pytest.param("executorch", marks=pytest.mark.needs("executorch")),
        pytest.param("mlx:mixed-4", marks=pytest.mark.needs("mlx-lm")),
        pytest.param("web:mixed-5", marks=pytest.mark.needs("transformers.js")),
    ],
)
def test_every_format_holds_the_kept_tokens(run: Run, result: Callable[..., Any], tmp_path: Path, name: str) -> None:
    size = write_model(tmp_path, "llama-gqa")
    task, out = f"a={tmp_path / 'a.jsonl'}", tmp_path / "out"
    words = ("--ratio", 0.4, "--vocabulary", size, "--format", name, "--out", out, "-q")
    made = result("export", tmp_path / "m", "--task", task, *words)["variants"]["a-0.4"]
    assert made["parity"][name.partition(":")[0]]["verdict"] == "passed"
    assert run("validate", out, "-q").code == 0


def test_targets_try_the_vocabulary_of_the_task_beside_the_whole_one(
    run: Run, result: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "MULTIPLE", 4)
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path, "llama-gqa")
    given = ("export", "m", "--task", "a=a.jsonl", "--format", "onnx:int8", "--vocabulary", "auto", "--quality", "-q")
    values = result(*given, "--max-kl", "4", "--out", "out")
    points = values["frontier"]["tasks"]["a"]["points"]
    assert {(point["vocabulary"], point["ratio"]) for point in points} >= {("all", 0.0), ("auto", 0.0)}
    (chosen,) = [point for point in points if point["chosen"]]
    assert chosen["vocabulary"] == "auto"
    assert chosen["ratio"] > 0
    assert {point["vocabulary"]: point["lost_kl_nats"] > 0 for point in points} == {"all": False, "auto": True}
    plan = read_plan(tmp_path / "out" / chosen["variant"] / "plan.json")
    assert len(plan.vocabulary or ()) in range(1, 130)
    recorded = values["variants"][chosen["variant"]]["quality"]
    assert recorded["mean_kl_nats"] == pytest.approx(chosen["mean_kl_nats"], rel=1e-6)
    assert run(*given, "--ratio", chosen["ratio"], "--out", "again").code == 0
    assert tree(Path("again", chosen["variant"]), CARD) == tree(Path("out", chosen["variant"]), CARD)
