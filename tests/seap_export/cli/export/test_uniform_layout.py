"""`--layout uniform` through every command: variants that are plain models of their family."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.corpora import write_corpus
from support.exports import CARD, Run, run_here
from support.models import write_micro_model
from support.product import read_plan
from support.variations import VARIATIONS
from transformers import AutoModelForCausalLM

from seap_export.model.families import family_of_model_type

#: Norms around sublayers and soft caps, multipliers, products that are stored together, and a tokenizer of its own.
QUICK = ("gemma2-all", "granite-all", "phi3-all", "qwen2-window")
UNIFORM = ("--layout", "uniform")
EXPORT = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.4", *UNIFORM, "--out", "out")


def write_byte_tokenizer(folder: Path) -> None:
    """A byte-level BPE, the kind that transformers 5 makes of any plain Qwen2's tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(("<pad>", "<s>", "</s>", "<unk>", *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+|\s+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def pristine_uniform(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of task a at ratio 0.4; not to be changed."""
    out = tmp_path_factory.mktemp("uniform") / "out"
    task = f"a={inputs / 'a.jsonl'}"
    outcome = run_here("export", inputs / "m", "--task", task, "--ratio", 0.4, *UNIFORM, "--out", out, "-q")
    assert outcome.code == 0, outcome.err
    return out


@pytest.fixture
def uniform(pristine_uniform: Path, work: Path) -> Path:
    """A copy of its variant in ./out."""
    return Path(shutil.copytree(pristine_uniform, work / "out")) / "a-0.4"


@pytest.mark.parametrize("variation", QUICK)
def test_every_family_is_exported_with_parity_and_loads_as_a_plain_model(
    run: Run, tmp_path: Path, variation: str
) -> None:
    dense = write_micro_model(tmp_path / "dense", vocab_size=288, **VARIATIONS[variation])
    if VARIATIONS[variation]["model_type"] == "qwen2":
        write_byte_tokenizer(dense)
    task = f"a={write_corpus(tmp_path / 'a.jsonl')}"
    (tmp_path / "mine.toml").write_text("align = 1\n")
    chosen = ("--ratio", 0.4, "--recipe", tmp_path / "mine.toml", *UNIFORM)
    arguments = ("--task", task, *chosen, "--out", tmp_path / "out", "--json", "-q")
    outcome = run("export", dense, *arguments)
    assert (outcome.code, outcome.err) == (0, "")
    made = json.loads(outcome.out)["variants"]["a-0.4"]
    assert (made["method"], made["parity"]["onnx"]["verdict"]) == ("reconstruct", "passed")
    assert abs(made["achieved_ratio"] - 0.4) <= 0.005
    folder = tmp_path / "out" / "a-0.4"
    plan = read_plan(folder / "plan.json")
    layout, sparsity = plan.settings.layout, plan.settings.sparsity
    assert (layout, sparsity.kind, sparsity.protect_first) == ("uniform", "uniform", 0)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder / "hf", dtype=torch.float32, output_loading_info=True, trust_remote_code=False
    )
    assert type(model).__name__ == family_of_model_type(VARIATIONS[variation]["model_type"]).architecture
    assert not any(info.values())
    assert not list((folder / "hf").glob("*.py"))


def test_ratio_0_is_the_dense_model(run: Run, work: Path) -> None:
    assert run(*EXPORT[:4], "--ratio", 0, *UNIFORM, "--out", "out", "-q").code == 0
    dense, pruned = (AutoModelForCausalLM.from_pretrained(folder) for folder in ("m", "out/a-0/hf"))
    assert type(pruned) is type(dense)
    weights = dense.state_dict()
    assert pruned.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in pruned.state_dict().items())


def test_the_steps_by_hand_give_what_export_gives(run: Run, uniform: Path) -> None:
    """`prune --force` replaces a plain pruned model, and no dense one."""
    before = {path.name: path.read_bytes() for path in (uniform / "hf").iterdir()}
    prune = ("prune", "m", "--plan", uniform / "plan.json", "--calibration", "out/calibration/a", "-q", "--out")
    outcome = run(*prune, uniform / "hf")
    assert (outcome.code, outcome.err.split(";")[0]) == (2, f"Error: {uniform / 'hf'} already exists")
    assert run(*prune, uniform / "hf", "--force").code == 0
    for name in CARD:  # which prune does not write
        (uniform / "hf" / name).write_bytes(before[name])
    assert {path.name: path.read_bytes() for path in (uniform / "hf").iterdir()} == before
    outcome = run(*prune, "m", "--force")
    assert (outcome.code, outcome.err.split(" (")[0]) == (2, "Error: m is not empty")
    assert run("convert", uniform / "hf", "--out", "onnx", "-q").code == 0
    assert Path("onnx/model.onnx.data").read_bytes() == (uniform / "onnx" / "model.onnx.data").read_bytes()
    assert run("validate", uniform, "-q").code == 0
