"""Exports in several formats, one of which no part of the package knows by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.corpora import micro_texts
from support.editing import list_again
from support.exports import CARD, Outcome, Run
from support.formats.fake_format import FAKE_FILE, FakeFormat, FakeRunner, install_fake_format
from support.product import PeakMemory

from seap_export.common.checksums import SUMS
from validation.reports import schema

EXPORT = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out")
FORMATS = ("--format", "hf", "--format", "onnx", "--format", "fake", "--format", "fake:f16")
FOLDERS = ("hf", "onnx", "fake", "fake-f16")


@pytest.fixture(autouse=True, scope="module")
def _table() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        install_fake_format(patch)
        yield


@pytest.fixture(scope="module")
def once(place: Path, done_in: Callable[..., Outcome], _table: None) -> Path:
    """An export in all formats in `out`; not to be changed."""
    done_in(place, *EXPORT, *FORMATS)
    return place


@pytest.fixture
def out(home: Path) -> Path:
    return home / "out"


def manifest_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "manifest.json").read_text("utf-8"))


def change(path: Path, name: str) -> None:
    tensors = load_file(path)
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, path)


def test_each_format_gets_its_folder_and_its_parity(once: Path, pristine: Path) -> None:
    """And onnx and hf are as without the others."""
    whole = once / "out"
    variant = whole / "a-0.2"
    files = {"plan.json", "parity.json", "parity-fake.json", "parity-fake-f16.json", SUMS}
    assert {path.name for path in variant.iterdir()} == {*FOLDERS, *files}
    entry = manifest_of(whole)["variants"]["a-0.2"]
    assert entry["precision"] == {"onnx": "int8", "fake": "f32", "fake-f16": "f16"}
    assert {name: parity["verdict"] for name, parity in entry["parity"].items()} == dict.fromkeys(
        FOLDERS[1:], "passed"
    )
    assert entry["parity"]["fake"]["runtime"] == "faked"
    for name in FOLDERS:
        sizes = [path.stat().st_size for path in (variant / name).iterdir() if path.name not in CARD]
        assert entry["bytes"][name] == sum(sizes)
    report = json.loads((whole / "validation.json").read_text("utf-8"))
    jsonschema.validate(report, schema())
    told = report["variants"]["a-0.2"]
    assert told["formats"]["fake-f16"]["title"] == "Fake"
    assert told["dense_bytes"]["fake"] > told["bytes"]["fake"]
    page = (whole / "validation.html").read_text("utf-8")
    assert "fake-f16" in page
    assert "faked" in page
    assert "\n- fake is slow in f16\n" in (variant / "hf" / "README.md").read_text("utf-8")

    for name in ("plan.json", "parity.json"):
        assert (whole / "a-0.2" / name).read_bytes() == (pristine / "a-0.2" / name).read_bytes()
    for folder in ("hf", "onnx"):
        for path in (path for path in (pristine / "a-0.2" / folder).iterdir() if path.name not in CARD):
            assert (whole / "a-0.2" / folder / path.name).read_bytes() == path.read_bytes()


def test_force_removes_what_was_written_from_the_model_that_it_replaces(run: Run, out: Path) -> None:
    fewer = (*EXPORT, "--no-quality", "--no-speed", "--format", "onnx", "--force")
    assert run(*fewer).code == 0  # nothing is replaced, so that nothing is outdated
    assert (out / "a-0.2" / "fake").is_dir()
    outcome = run(*fewer, "--set", "seed=1")
    assert outcome.code == 0, outcome.err
    assert {path.name for path in (out / "a-0.2").iterdir()} == {"hf", "onnx", "plan.json", "parity.json", SUMS}
    assert not [step for step in manifest_of(out)["steps"] if "fake" in step]
    assert run("validate", "out").code == 0


def test_a_model_is_refused_before_any_work(run: Run, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeFormat, "extra", "plots")
    monkeypatch.setattr("seap_export.common.extras.missing_packages", lambda extra: ["matplotlib"])
    run(*EXPORT, *FORMATS, "-q").refused(6, 'pip install "matplotlib')
    monkeypatch.setattr("seap_export.pipeline.prepared.require_runtime", lambda name: pytest.fail("not needed"))
    monkeypatch.setattr(FakeFormat, "refusal", lambda self, spec, folder: "fake takes no such model; use onnx")
    run(*EXPORT, *FORMATS, "-q").refused(8, "use onnx")  # before anything is installed for it
    assert not (bare / "out").exists()


def test_a_tokenizer_is_refused_before_any_work(
    run: Run, bare: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in ("pipeline.export.run_steps", "pipeline.convert.write_rounded_model"):
        monkeypatch.setattr(f"seap_export.{start}", lambda *_, **__: pytest.fail("too late"))
    words = ("--format", "gguf:q4_0", "-q")
    texts = ("--calibration", pristine / "calibration" / "a")
    for command in (EXPORT, (*EXPORT, "--dry-run"), ("convert", "m", *texts, "--out", "out")):
        run(*command, *words).refused(8, "GGUF files cannot hold this tokenizer", "WordLevel", "use another format")
        assert not (bare / "out").exists()


def test_validate_compares_what_a_runtime_runs(run: Run, out: Path) -> None:
    report = json.loads(run("validate", "out", "--json", "-q").out)
    subjects = [check["subject"] for check in report["checks"] if check["check"] == "parity"]
    assert subjects == ["onnx in onnxruntime", "fake in faked", "fake-f16 in faked"]
    words = ("--check", "parity", "--runtime", "faked", "--runtime", "faked-too")
    report = json.loads(run("validate", "out", *words, "--json", "-q").out)
    assert list(report["variants"]["a-0.2"]["parity"]) == [
        "fake", "fake in faked-too", "fake-f16", "fake-f16 in faked-too",
    ]  # fmt: skip
    jsonschema.validate(report, schema())
    assert FakeRunner.opened == 0
    run("validate", "out", "--runtime", "ollama", "-q").refused(2, "unknown runtime", "faked")
    shutil.rmtree(out / "a-0.2" / "onnx")
    run("validate", "out/a-0.2", "--check", "parity", "--runtime", "onnxruntime", "-q").refused(2, "onnxruntime")


def test_a_wrong_weight_and_a_wrong_runtime_are_told_apart(
    run: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = ("validate", "out/a-0.2", "--check", "parity", "--runtime", "faked", "-q")
    change(out / "a-0.2" / "fake" / FAKE_FILE, "model.layers.1.mlp.up_proj.weight")
    run(*only).refused(3, "parity of fake in faked", "weights: 'model.layers.1.mlp.up_proj.weight' differs")
    run("validate", "out", "-q").refused(7, f"fake/{FAKE_FILE}", "SHA-256")
    shutil.copyfile(out / "a-0.2" / "fake-f16" / FAKE_FILE, out / "a-0.2" / "fake" / FAKE_FILE)

    def fault(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] *= 1.2

    monkeypatch.setattr(FakeRunner, "fault", staticmethod(fault))
    run(*only).refused(3, "under [fp32] in a file of limits")


def test_damage_is_found_by_the_format(run: Run, out: Path, home: Path) -> None:
    (out / "a-0.2").rename(home / "alone")
    about = home / "alone" / "fake" / "about.json"
    about.write_text(about.read_text().replace('"eos_token_id": 2', '"eos_token_id": 3'))
    list_again(home / "alone")
    run("validate", "alone", "--check", "integrity", "-q").refused(7, "EOS")
    (home / "alone" / "fake" / FAKE_FILE).unlink()
    run("validate", "alone", "--check", "integrity", "-q").refused(7, FAKE_FILE)


def test_bench_takes_a_runtime(run: Run, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # measured in a process of its own, which does not know the fake
    monkeypatch.setattr("seap_export.pipeline.evaluation.bench.peak_memory", lambda *_: PeakMemory(None, None))
    words = ("--depth", "8", "--batch", "2", "--runs", "1", "--steps", "2", "--runtime", "faked", "--json", "-q")
    values = json.loads(run("bench", "out", "--dense", "m", *words, "--format", "fake:f16").out)
    assert {(subject["model"], subject["engine"]) for subject in values["subjects"]} == {
        ("dense", "faked"),
        ("a-0.2", "faked"),
    }
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert values["subjects"][1]["disk_bytes"] == manifest["variants"]["a-0.2"]["bytes"]["fake-f16"]
    assert [(cell["batch"], cell["depth"]) for cell in values["subjects"][1]["cells"]] == [(1, 8), (2, 8)]
    assert values["left_out"] == []
    run("bench", "out", "--dense", "m", "--runtime", "ollama", "-q").refused(2, "unknown runtime", "torch")


def test_evaluate_takes_a_runtime(run: Run, out: Path, home: Path) -> None:
    words = ("--dense", "m", "--limit", "2", "--runtime", "faked", "--runtime", "onnxruntime", "--json", "-q")
    divergence = json.loads(run("evaluate", "out/a-0.2", *words).out)["divergence"]
    assert divergence.keys() == {"onnx", "fake in faked"}
    kl, of_int8 = (divergence[name]["mean_kl_nats"] for name in ("fake in faked", "onnx"))
    assert of_int8 == pytest.approx(kl, rel=0.1)
    run("evaluate", "m", "--runtime", "faked", "-q").refused(2)
    run("evaluate", "out/a-0.2", "--dense", "m", "--runtime", "ollama", "-q").refused(2, "unknown runtime", "torch")
    records = [{"text": text, "answer": "cat"} for text in micro_texts(6, seed=77)]
    (home / "quiz.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (home / "quiz.toml").write_text(
        'corpus = "quiz.jsonl"\nprompt = "{text}"\ncompletion = " {answer}"\nanswer = "(\\\\S+)"\n'
    )
    words = ("--runtime", "torch", "--runtime", "onnxruntime", "--runtime", "faked", "--generate", "quiz=quiz.toml")
    options = ("--max-new-tokens", "8", "--batch-size", "4", "--json", "-q")
    report = json.loads(run("evaluate", "out/a-0.2", *words, *options).out)
    generation = report["generation"]
    assert list(generation) == ["hf", "onnx", "fake in faked"]
    assert generation["fake in faked"] == generation["hf"]
    assert FakeRunner.opened == 0
