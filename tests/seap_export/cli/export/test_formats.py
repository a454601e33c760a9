"""Exports in several formats, one of which no part of the package knows by name: written, compared and measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.conversations import write_records
from support.corpora import micro_texts
from support.editing import list_again
from support.estimates import without_texts
from support.exports import CARD, Outcome, Run, tree
from support.formats.fake_format import FAKE_FILE, FakeFormat, FakeRunner, install_fake_format
from support.product import GENERAL_TEXT, PeakMemory

from seap_export.common.checksums import SUMS
from seap_export.common.json_file import read_json
from validation.reports import schema

EXPORT = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out")
FORMATS = ("--format", "fake", "--format", "fake:f16")
MEASURED = ("--quality", "--speed")
FOLDERS = ("hf", "onnx", "fake", "fake-f16")
NAME = "fake in faked"
NAMES = [NAME, "fake-f16 in faked"]


@pytest.fixture(autouse=True, scope="module")
def _table() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        install_fake_format(patch)
        yield


@pytest.fixture(scope="module")
def once(place: Path, done_in: Callable[..., Outcome], _table: None) -> Path:
    """An export in the formats fake and fake:f16, measured, in `out`, to which onnx was added; not to be changed.

    `first.json` is the report of the first run.
    """
    done_in(place, *EXPORT, *FORMATS, *MEASURED)
    assert FakeRunner.opened == 0
    shutil.copy(place / "out" / "validation.json", place / "first.json")
    done_in(place, *EXPORT, "--format", "onnx")
    return place


@pytest.fixture
def out(home: Path) -> Path:
    return home / "out"


def test_each_format_gets_its_folder_and_its_parity(once: Path, pristine: Path) -> None:
    """And onnx and hf are as without the others."""
    variant, other = once / "out" / "a-0.2", pristine / "a-0.2"
    reports = {f"{what}-{name}.json" for what in ("parity", "quality") for name in FOLDERS[2:]}
    assert {path.name for path in variant.iterdir()} == {*FOLDERS, *reports, "plan.json", "parity.json", SUMS}
    entry = read_json(once / "out" / "manifest.json")["variants"]["a-0.2"]
    assert entry["precision"] == {"onnx": "int8", "fake": "f32", "fake-f16": "f16"}
    assert {name: parity["verdict"] for name, parity in entry["parity"].items()} == dict.fromkeys(
        FOLDERS[1:], "passed"
    )
    assert entry["parity"]["fake"]["runtime"] == "faked"
    assert entry["quality"]["folder"] == "fake"  # measured before onnx was added
    assert list(entry["bytes"]) == list(FOLDERS)
    for name in FOLDERS:
        sizes = [path.stat().st_size for path in (variant / name).iterdir() if path.name not in CARD]
        assert entry["bytes"][name] == sum(sizes)
    report = read_json(once / "out" / "validation.json")
    jsonschema.validate(report, schema())
    told = report["variants"]["a-0.2"]
    assert told["formats"]["fake-f16"]["title"] == "Fake"
    assert told["dense_bytes"]["fake"] > told["bytes"]["fake"]
    assert "\n- fake is slow in f16\n" in (variant / "hf" / "README.md").read_text("utf-8")
    assert tree(other, CARD).items() <= tree(variant, CARD).items()


def test_every_format_is_compared_and_the_first_is_timed(run: Run, out: Path) -> None:
    recorded, other = (read_json(out / "a-0.2" / f"quality-{folder}.json") for folder in ("fake", "fake-f16"))
    assert (recorded["folder"], recorded["runtime"], list(recorded["divergence"])) == ("fake", "faked", [NAME])
    values = json.loads(
        run("evaluate", "out/a-0.2", "--dense", "m", "--runtime", "torch", "--runtime", "faked", "--json").out
    )
    divergence, evaluated = (without_texts(report["divergence"][NAME]) for report in (recorded, values))
    assert divergence == pytest.approx(evaluated, rel=1e-6)
    assert values["divergence"]["hf"]["mean_kl_nats"] == pytest.approx(
        recorded["divergence"][NAME]["mean_kl_nats"], rel=1e-3
    )
    assert list(recorded["elsewhere"]) == [NAME]
    assert list(recorded["elsewhere"][NAME]) == ["a", GENERAL_TEXT]
    assert set(recorded["sample"]) == {"prompt", "dense", "variant"}
    figures = read_json(out / "manifest.json")["variants"]["a-0.2"]["quality"]
    assert (figures["folder"], figures["runtime"]) == ("fake", "faked")
    assert figures["mean_kl_nats"] == recorded["divergence"][NAME]["mean_kl_nats"]
    assert list(other["divergence"]) == NAMES[1:]
    (rounded,) = other["divergence"].values()
    assert rounded["mean_kl_nats"] != figures["mean_kl_nats"]
    assert figures["others"]["fake-f16"].items() <= (rounded | other).items()
    reported = read_json(Path("first.json"))["variants"]["a-0.2"]["quality"]
    assert reported["divergence"] == recorded["divergence"] | other["divergence"]
    timed = read_json(out / "performance.json")["speed"]["a-0.2"]
    assert timed["fake"] == read_json(out / "manifest.json")["steps"]["a-0.2/fake"]
    assert (timed["figures"]["folder"], timed["figures"]["runtime"]) == ("fake", "faked")


def test_a_variant_that_fails_parity_is_not_measured(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefill = FakeRunner.prefill
    monkeypatch.setattr(FakeRunner, "prefill", lambda self, *words: prefill(self, *words) * 0.5)
    assert run(*EXPORT, *FORMATS[:2], *MEASURED).code == 3
    assert not list((work / "out" / "a-0.2").glob("quality*"))


def test_the_gate_takes_what_there_is(run: Run, out: Path) -> None:
    """Every folder in its runtime, and the model folder where there is no other."""
    shutil.rmtree(out / "a-0.2" / "onnx")
    words = ("validate", "out/a-0.2", "--check", "quality", "--dense", "m")
    report = json.loads(run(*words, "--max-kl", "99", "--json", "-q").out)
    jsonschema.validate(report, schema())
    divergence = report["variants"]["a-0.2"]["quality"]["divergence"]
    assert list(divergence) == NAMES
    assert [(check["check"], check["subject"]) for check in report["checks"]] == [("quality", name) for name in NAMES]
    run(*words, "--max-kl", "1e-9", "-q").refused(4, NAME)

    # a file beside the first, in fewer bits, fails alone
    kl = sorted(figures["mean_kl_nats"] for figures in divergence.values())
    assert kl[0] < kl[1]
    files = ("--junit", "out.xml", "--out", "report.json")
    assert run(*words, "--max-kl", str(sum(kl) / 2), *files, "-q").code == 4
    verdicts = {check["subject"]: check["verdict"] for check in read_json(Path("report.json"))["checks"]}
    worst = max(divergence, key=lambda name: divergence[name]["mean_kl_nats"])
    assert verdicts == {name: "failed" if name == worst else "passed" for name in NAMES}
    assert [name in Path("out.xml").read_text("utf-8") for name in NAMES] == [True, True]

    for name in ("fake", "fake-f16"):
        shutil.rmtree(out / "a-0.2" / name)
    report = json.loads(run(*words, "--max-kl", "99", "--json", "-q").out)
    assert list(report["variants"]["a-0.2"]["quality"]["divergence"]) == ["hf"]


def test_force_removes_what_was_written_from_the_model_that_it_replaces(run: Run, out: Path) -> None:
    outcome = run(*EXPORT, "--format", "onnx", "--force", "--set", "seed=1")
    assert outcome.code == 0, outcome.err
    assert {path.name for path in (out / "a-0.2").iterdir()} == {"hf", "onnx", "plan.json", "parity.json", SUMS}
    assert not [step for step in read_json(out / "manifest.json")["steps"] if "fake" in step]
    assert run("validate", "out").code == 0


def test_a_model_is_refused_before_any_work(run: Run, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeFormat, "extra", "plots")
    monkeypatch.setattr("seap_export.common.extras.missing_packages", lambda extra: ["matplotlib"])
    run(*EXPORT, *FORMATS, "-q").refused(6, 'pip install "matplotlib')
    monkeypatch.setattr("seap_export.pipeline.prepared.require_runtime", lambda name: pytest.fail("not needed"))
    monkeypatch.setattr(FakeFormat, "refusal", lambda self, spec, folder: "fake takes no such model; use onnx")
    run(*EXPORT, *FORMATS, "-q").refused(8, "use onnx")  # before anything is installed for it
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
    shutil.rmtree(out / "a-0.2" / "onnx")
    run("validate", "out/a-0.2", "--check", "parity", "--runtime", "onnxruntime", "-q").refused(2, "onnxruntime")


def test_a_wrong_weight_and_a_wrong_runtime_are_told_apart(
    run: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = ("validate", "out/a-0.2", "--check", "parity", "--runtime", "faked", "-q")
    name, path = "model.layers.1.mlp.up_proj.weight", out / "a-0.2" / "fake" / FAKE_FILE
    tensors = load_file(path)
    save_file({**tensors, name: tensors[name] * 1.5}, path)
    run(*only).refused(3, "parity of fake in faked", f"weights: '{name}' differs")
    run("validate", "out", "-q").refused(7, f"fake/{FAKE_FILE}", "SHA-256")
    shutil.copyfile(out / "a-0.2" / "fake-f16" / FAKE_FILE, path)

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


def test_bench_takes_a_runtime(run: Run, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # measured in a process of its own, which does not know the fake
    monkeypatch.setattr("seap_export.pipeline.evaluation.bench.peak_memory", lambda *_: PeakMemory(None, None))
    words = ("--depth", "8", "--batch", "2", "--runs", "1", "--steps", "2", "--runtime", "faked", "--json", "-q")
    values = json.loads(run("bench", "out", "--dense", "m", *words, "--format", "fake:f16").out)
    assert [(each["model"], each["engine"]) for each in values["subjects"]] == [("dense", "faked"), ("a-0.2", "faked")]
    variant = read_json(out / "manifest.json")["variants"]["a-0.2"]
    assert values["subjects"][1]["disk_bytes"] == variant["bytes"]["fake-f16"]
    assert [(cell["batch"], cell["depth"]) for cell in values["subjects"][1]["cells"]] == [(1, 8), (2, 8)]
    assert values["left_out"] == []


def test_evaluate_takes_a_runtime(run: Run, out: Path, home: Path) -> None:
    words = ("--dense", "m", "--limit", "2", "--runtime", "faked", "--runtime", "onnxruntime", "--json", "-q")
    divergence = json.loads(run("evaluate", "out/a-0.2", *words).out)["divergence"]
    assert divergence.keys() == {"onnx", "fake in faked"}
    kl, of_int8 = (divergence[name]["mean_kl_nats"] for name in ("fake in faked", "onnx"))
    assert of_int8 == pytest.approx(kl, rel=0.1)
    write_records(home / "quiz.jsonl", [{"text": text, "answer": "cat"} for text in micro_texts(6, seed=77)])
    task = 'corpus = "quiz.jsonl"\nprompt = "{text}"\ncompletion = " {answer}"\nanswer = "(\\\\S+)"\n'
    (home / "quiz.toml").write_text(task)
    words = ("--runtime", "torch", "--runtime", "faked", "--generate", "quiz=quiz.toml", "--max-new-tokens", "8")
    generation = json.loads(run("evaluate", "out/a-0.2", *words, "--json", "-q").out)["generation"]
    assert generation["fake in faked"] == generation["hf"]
    assert FakeRunner.opened == 0
