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
EXPORT = (
    "export", "m", "--task", "a=a.jsonl", "--ratio", "0.4", "--out", "out", "--recipe", "mine.toml",
    "--format", "onnx:int4", "--format", "onnx:int8", "--logits", "last", "--set", "asymmetric=true",
    "--set", "float_embeddings=true", "--set", "block_size=64", "--set", "rounding=nearest", "--set", "seed=3",
    "--set", "samples=9",
)  # fmt: skip


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a card and a licence, texts, and an export `out`, whose quality came later; not to be changed."""
    folder = tmp_path_factory.mktemp("cards")
    write_micro_model(folder / "m", model_type="llama")
    (folder / "m" / "README.md").write_text(README, "utf-8")
    (folder / "m" / "LICENSE").write_text(LICENCE, "utf-8")
    write_corpus(folder / "a.jsonl")
    write_corpus(folder / "b.jsonl", seed=5)
    (folder / "mine.toml").write_text('ridge = 2.0\nalign = 8\n[sparsity]\nkind = "uniform"\nprotect_first = 1\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_here(*EXPORT).code == 0
        variant = folder / "out" / "a-0.4"
        assert "Not measured" in (variant / "hf" / "README.md").read_text("utf-8")
        before = times_of_writing(variant)
        assert run_here(*EXPORT, "--quality").code == 0
    changed = {path for path, time in times_of_writing(variant).items() if before.get(path) != time}
    assert {path.name for path in changed} == {"README.md", "quality.json", "quality-onnx-int8.json", SUMS}
    return folder


@pytest.fixture
def work(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same to be changed, and the current folder."""
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def validated() -> Outcome:
    return run_here("validate", "out", "--check", "integrity", "--quiet")


def test_it_says_what_the_dense_model_says_of_itself_and_the_figures_of_the_manifest(once: Path) -> None:
    from validation.reports.numbers import percent

    path = once / "out" / "a-0.4" / "hf" / "README.md"
    card = path.read_text("utf-8")
    assert ModelCard.load(path).data.to_dict() == {
        "base_model": "owner/base", "base_model_relation": "finetune", "language": ["en", "de"],
        "library_name": "transformers", "license": "other", "license_name": "liberal", "license_link": "LICENSE",
        "pipeline_tag": "text-generation", "tags": ["chat", "seap-export", "pruned"],
    }  # fmt: skip
    assert path.with_name("LICENSE").read_text("utf-8") == LICENCE
    manifest = json.loads((once / "out" / "manifest.json").read_text("utf-8"))
    entry, record = manifest["variants"]["a-0.4"], once / "out" / "calibration" / "a" / "calibration.json"
    quality, (elsewhere,) = entry["quality"], entry["quality"]["elsewhere"].values()
    shown = [
        percent(entry["achieved_ratio"]),
        *(megabytes(entry["bytes"][folder]) for folder in ("onnx", "onnx-int8")),
        *(f"at most {figure(row['max_abs'])}, KL {figure(row['mean_kl_nats'])} |" for row in entry["parity"].values()),
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
    assert len(programs) == 3
    monkeypatch.chdir(work / "out" / "a-0.4")
    for program in programs:
        exec(compile(program, "README.md", "exec"), {})
        assert capsys.readouterr().out.strip()


REPEATED = {
    "a-0.4": (),
    "both-0.4": ("--task", "a=a.jsonl", "--task", "b=b.jsonl", "--set", "mix.both={a=2,b=1}", "--layout", "uniform",
                 "--format", "hf"),
    "general-0.4": (
        "--task", "a=x/t.jsonl", "--task", "b=y/t.jsonl", "--general", "--set", "weight.a=2.5",
        "--support", "b.jsonl:0.25", "--recipe", "wanda-sp", "--precision", "fp16", "--logits", "all",
    ),
}  # fmt: skip


@pytest.mark.parametrize("variant", REPEATED)
def test_the_settings_file_makes_the_same_variant_again(work: Path, variant: str) -> None:
    """Wherever the model and the texts lie: they are named alone, and copied beside the file."""
    for folder, texts, name in (("x", "a.jsonl", "a-t.jsonl"), ("y", "b.jsonl", "b-t.jsonl")):
        for copy in (work / folder / "t.jsonl", work / "again" / name, work / "again" / texts):
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(work / texts, copy)
    shutil.copytree(work / "m", work / "again" / "m")
    if REPEATED[variant]:
        outcome = run_here("export", "m", *REPEATED[variant], "--ratio", "0.4", "--out", "first")
        assert outcome.code == 0, outcome.err
    first = work / ("first" if REPEATED[variant] else "out") / variant
    for file in (first / "hf").glob("*.toml"):
        assert f"`{file.name}`" in (first / "hf" / "README.md").read_text("utf-8")
        shutil.copy(file, work / "again")
    quality = [] if REPEATED[variant] else ["--quality"]
    outcome = run_here("export", "--config", work / "again" / "recipe.toml", "--out", "second", *quality)
    assert outcome.code == 0, outcome.err
    assert tree(first) == tree(work / "second" / variant)


def test_a_card_of_other_figures_is_damage(work: Path) -> None:
    """Both the report and what the manifest repeats of it are changed, with the hashes."""

    def edit(report: Any) -> None:
        for figures in report["divergence"].values():
            figures["mean_kl_nats"] = 0.001

    edit_json(work / "out" / "a-0.4" / "quality.json", edit)
    record_again(work / "out")
    manifest = work / "out" / "manifest.json"
    edit_json(manifest, lambda values: values["variants"]["a-0.4"]["quality"].update(mean_kl_nats=0.001))
    validated().refused(7, "README.md", "other figures", "run the same export again")
    assert run_here(*EXPORT).code == 0
    assert "0.001" in (work / "out" / "a-0.4" / "hf" / "README.md").read_text("utf-8")
    assert validated().code == 0


@pytest.mark.parametrize("file", ["recipe.toml", "LICENSE"])
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
