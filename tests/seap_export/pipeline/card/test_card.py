"""Model cards: what they say, when they are written again, and that their settings file repeats the export."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from support.corpora import write_corpus
from support.editing import edit_json, record_again
from support.exports import Outcome, run_here, times_of_writing, tree
from support.models import write_micro_model
from support.product import figure, megabytes, with_error

from seap_export.common.checksums import SUMS
from seap_export.common.hashing import sha256_json

LICENCE = "Do what you like.\n"
README = """---
license: other
license_name: liberal
license_link: LICENSE
language: [en, de]
tags: [chat]
base_model: owner/base
---
# The dense model
"""
EXPORT = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.4", "--out", "out")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a card and a licence, texts, and an export `out` with its quality; not to be changed."""
    folder = tmp_path_factory.mktemp("cards")
    write_micro_model(folder / "m", model_type="llama")
    (folder / "m" / "README.md").write_text(README, "utf-8")
    (folder / "m" / "LICENSE").write_text(LICENCE, "utf-8")
    write_corpus(folder / "a.jsonl")
    write_corpus(folder / "b.jsonl", seed=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        outcome = run_here(*EXPORT, "--quality")
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture
def work(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same to be changed, and the current folder."""
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def validated() -> Outcome:
    return run_here("validate", "out", "--check", "integrity", "--quiet")


def test_the_hub_reads_what_the_dense_model_says_of_itself(once: Path) -> None:
    card = ModelCard.load(once / "out" / "a-0.4" / "hf" / "README.md")
    assert card.data.to_dict() == {
        "base_model": "owner/base",
        "base_model_relation": "finetune",
        "language": ["en", "de"],
        "library_name": "transformers",
        "license": "other",
        "license_name": "liberal",
        "license_link": "LICENSE",
        "pipeline_tag": "text-generation",
        "tags": ["chat", "seap-export", "pruned"],
    }
    assert (once / "out" / "a-0.4" / "hf" / "LICENSE").read_text("utf-8") == LICENCE


def test_it_shows_the_figures_of_the_manifest(once: Path) -> None:
    from validation.reports.numbers import percent

    manifest = json.loads((once / "out" / "manifest.json").read_text("utf-8"))
    entry, record = manifest["variants"]["a-0.4"], once / "out" / "calibration" / "a" / "calibration.json"
    parity = entry["parity"]["onnx"]
    quality, (elsewhere,) = entry["quality"], entry["quality"]["elsewhere"].values()
    card = (once / "out" / "a-0.4" / "hf" / "README.md").read_text("utf-8")
    shown = [
        percent(entry["achieved_ratio"]),
        megabytes(entry["bytes"]["onnx"]),
        f"at most {figure(parity['max_abs'])}, KL {figure(parity['mean_kl_nats'])} |",
        with_error(quality["mean_kl_nats"], quality["mean_kl_nats_stderr"]),
        f"{elsewhere['general text']['bits_per_byte']:.3g}",
        f"| {manifest['tasks']['a']['calibration_tokens']:,} |",
        sha256_json(json.loads(record.read_text("utf-8"))["calibration_texts"]),
    ]
    assert [text for text in shown if text not in card] == []
    assert str(once) not in card


def test_its_programs_run(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    card = (work / "out" / "a-0.4" / "hf" / "README.md").read_text("utf-8")
    programs = re.findall(r"^```python\n(.*?)^```", card, flags=re.MULTILINE | re.DOTALL)
    assert len(programs) == 2
    monkeypatch.chdir(work / "out" / "a-0.4")
    for program in programs:
        exec(compile(program, "README.md", "exec"), {})
        assert capsys.readouterr().out.strip()


REPEATED = {
    "graphs": (
        "--task", "a=a.jsonl", "--recipe", "mine.toml", "--format", "onnx:int4", "--format", "onnx:int8",
        "--logits", "last", "--set", "asymmetric=true", "--set", "float_embeddings=true", "--set", "block_size=64",
        "--set", "rounding=nearest", "--set", "seed=3", "--set", "samples=9", "--quality",
    ),
    "uniform": ("--task", "a=a.jsonl", "--task", "b=b.jsonl", "--set", "mix.both={a=2,b=1}", "--layout", "uniform",
                "--format", "hf"),
    "general": (
        "--task", "a=x/t.jsonl", "--task", "b=y/t.jsonl", "--general", "--set", "weight.a=2.5",
        "--support", "b.jsonl:0.25", "--recipe", "wanda-sp", "--precision", "fp16", "--logits", "all",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REPEATED)
def test_the_settings_file_makes_the_same_variant_again(work: Path, name: str) -> None:
    """Wherever the model and the texts lie: they are named alone, and copied beside the file."""
    (work / "mine.toml").write_text('ridge = 2.0\nalign = 8\n[sparsity]\nkind = "uniform"\nprotect_first = 1\n')
    for folder, texts in (("x", "a.jsonl"), ("y", "b.jsonl")):
        (work / folder).mkdir()
        shutil.copy(work / texts, work / folder / "t.jsonl")
    outcome = run_here("export", "m", *REPEATED[name], "--ratio", "0.4", "--out", "first")
    assert outcome.code == 0, outcome.err
    variant = {"general": "general-0.4", "uniform": "both-0.4", "graphs": "a-0.4"}[name]
    again = work / "again"
    again.mkdir()
    card = (work / "first" / variant / "hf" / "README.md").read_text("utf-8")
    for file in (work / "first" / variant / "hf").glob("*.toml"):
        assert f"`{file.name}`" in card
        shutil.copy(file, again)
    if name == "general":
        shutil.copy(work / "x" / "t.jsonl", again / "a-t.jsonl")
        shutil.copy(work / "y" / "t.jsonl", again / "b-t.jsonl")
    for path in ("a.jsonl", "b.jsonl"):
        shutil.copy(work / path, again)
    shutil.copytree(work / "m", again / "m")
    quality = ["--quality"] if "--quality" in REPEATED[name] else []
    outcome = run_here("export", "--config", again / "recipe.toml", "--out", "second", *quality)
    assert outcome.code == 0, outcome.err

    first, second = (tree(work / out / variant) for out in ("first", "second"))
    assert {path for path in first if first[path] != second.get(path)} == set()
    assert first.keys() == second.keys()


def test_a_card_follows_its_figures(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("m", "a.jsonl"):
        (shutil.copytree if (once / name).is_dir() else shutil.copy)(once / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert run_here(*EXPORT).code == 0
    card = tmp_path / "out" / "a-0.4" / "hf" / "README.md"
    assert "Not measured" in card.read_text("utf-8")
    times = times_of_writing(tmp_path / "out" / "a-0.4")
    assert run_here(*EXPORT).code == 0
    assert times_of_writing(tmp_path / "out" / "a-0.4") == times
    assert run_here(*EXPORT, "--quality").code == 0
    assert card.read_bytes() == (once / "out" / "a-0.4" / "hf" / "README.md").read_bytes()
    changed = {path for path, time in times_of_writing(tmp_path / "out" / "a-0.4").items() if times.get(path) != time}
    assert {path.name for path in changed} == {"README.md", "quality.json", SUMS}
    assert validated().code == 0


def test_a_card_of_other_figures_is_damage(work: Path) -> None:
    """Both the report and what the manifest repeats of it are changed, with the hashes."""
    report = work / "out" / "a-0.4" / "quality.json"
    edit_json(report, lambda values: values["divergence"]["onnx"].update(mean_kl_nats=0.001))
    record_again(work / "out")

    def edit(manifest: Any) -> None:
        manifest["variants"]["a-0.4"]["quality"]["mean_kl_nats"] = 0.001

    edit_json(work / "out" / "manifest.json", edit)
    validated().refused(7, "README.md", "other figures", "run the same export again")
    assert run_here(*EXPORT).code == 0
    assert "0.001" in (work / "out" / "a-0.4" / "hf" / "README.md").read_text("utf-8")
    assert validated().code == 0


@pytest.mark.parametrize("file", ["README.md", "recipe.toml", "LICENSE"])
def test_a_changed_card_is_damage_and_with_force_it_alone_is_replaced(work: Path, file: str) -> None:
    path = work / "out" / "a-0.4" / "hf" / file
    whole, before = path.read_bytes(), times_of_writing(work / "out" / "a-0.4")
    path.write_bytes(whole + b"\nMine.\n")
    validated().refused(7, file, "SHA-256")
    run_here(*EXPORT, "--quiet").refused(7, file, "--force")
    assert run_here(*EXPORT, "--force").code == 0
    assert path.read_bytes() == whole
    after = times_of_writing(work / "out" / "a-0.4")
    assert {other for other in after if after[other] != before[other]} == {path}
    path.unlink()
    validated().refused(7, file, "missing")
    assert run_here(*EXPORT).code == 0
    assert path.read_bytes() == whole
