"""The functions of the API do what the commands do, to the byte, and return the figures."""

from __future__ import annotations

import json
import warnings
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import datasets
import pytest
from support.exports import CARD, FEW, TEXTS, run_here, times_of_writing, tree

from seap_export import Variant, convert, evaluate, export, prune, validate
from seap_export.errors import ArtifactError, InputError, SeapError, UsageError
from seap_export.runtime import Generator, Sampling


def test_function_and_command_write_the_same_bytes_and_go_on_with_each_other(inputs: Path, tmp_path: Path) -> None:
    called, run = tmp_path / "called", tmp_path / "run"
    sources = [word for task in "ab" for word in ("--task", f"{task}={inputs / task}.jsonl")]
    settings = ("weight.b=2", "prompts=1", "asymmetric=true", "samples=20", "held_out=8")
    words = [word for setting in settings for word in ("--set", setting)]
    command = ["export", inputs / "m", *sources, "--ratio", "0.2", "--general", "--precision", "int8", *words, "--out"]
    options: dict[str, Any] = {**FEW, "general": True, "weight": {"b": 2}, "asymmetric": True}
    options |= {"samples": 20, "held_out": 8}

    def call(tasks: Any, out: Path) -> Any:
        return export(inputs / "m", tasks, ratio=0.2, format="onnx:int8", out=out, **options)

    assert call(TEXTS, called).passed
    assert run_here(*command, run).code == 0
    assert tree(called) == tree(run)
    assert len(tree(run)) > 30

    before = times_of_writing(called) | times_of_writing(run)
    assert run_here(*command, called).code == 0
    data_sets = {task: datasets.Dataset.from_dict({"text": texts}) for task, texts in TEXTS.items()}
    assert list(call(data_sets, run).steps) == ["hashing", "validation"]
    assert times_of_writing(called) | times_of_writing(run) == before


def test_the_result_of_an_export_has_the_figures_of_its_reports(inputs: Path, done: Path) -> None:
    result = export(str(inputs / "m"), {"a": inputs / "a.jsonl"}, ratio=[0.2], out=str(done), **FEW)
    report = json.loads((done / "validation.json").read_text())
    told, quality = report["variants"]["a-0.2"], report["variants"]["a-0.2"]["quality"]["divergence"]["onnx"]
    figures = result.variants["a-0.2"].figures

    assert (result.passed, result.failure, result.path) == (True, "", done)
    assert [check.verdict for check in result.checks] == [check["verdict"] for check in report["checks"]]
    assert list(result.variants) == list(result.entries) == ["a-0.2"]
    assert (figures.task, figures.requested_ratio, figures.ratio) == ("a", 0.2, told["achieved_ratio"])
    assert (figures.num_parameters, figures.dense_parameters) == (told["num_parameters"], told["dense_parameters"])
    assert figures.num_parameters < figures.dense_parameters
    assert figures.kl.to_json().items() <= quality.items()
    assert figures.top1_agreement == quality["top1_agreement"]
    assert (figures.perplexity, figures.dense_perplexity) == (quality["perplexity"], quality["dense_perplexity"])
    cell = told["speed"]["variant"][0]
    for what, speedup in (("decode", figures.decode_speedup), ("prefill", figures.prefill_speedup)):
        ends = (cell[f"{what}_speedup_low"], cell[f"{what}_speedup_high"])
        assert (speedup.value, speedup.ideal) == (cell[f"{what}_speedup"], cell[f"{what}_ideal_speedup"])
        assert (speedup.low, speedup.high) == ends
    onnx, hf = figures.formats["onnx"], figures.formats["hf"]
    files = [path for path in (done / "a-0.2" / "onnx").rglob("*") if path.is_file() and path.name != "SHA256SUMS"]
    assert onnx.bytes == sum(path.stat().st_size for path in files)
    assert (onnx.path, onnx.precision, onnx.parity) == (done / "a-0.2" / "onnx", "int8", "passed")
    assert (onnx.max_abs, onnx.dense_bytes) == (told["parity"]["onnx"]["max_abs"], told["dense_bytes"]["onnx"])
    assert (hf.parity, hf.precision, hf.max_abs) == (None, None, None)


def test_a_variant_is_opened_by_its_path(done: Path) -> None:
    variant = Variant(done / "a-0.2")
    described = validate(done, prompts=1, decode_steps=2).variants["a-0.2"]
    assert (variant.name, variant.path, variant.onnx) == ("a-0.2", done / "a-0.2", done / "a-0.2" / "onnx")
    assert (variant.hf / "config.json").is_file()
    assert variant.figures == described.figures
    with pytest.raises(FrozenInstanceError):
        variant.figures.kl = 0.0  # type: ignore[misc]
    generator = Generator(variant.onnx)
    assert variant.generate("the cat", 5) == generator.generate("the cat", 5)
    sampled = variant.generate("the cat", 5, temperature=2.0, top_k=50, top_p=0.9, seed=3, raw=True)
    assert sampled == generator.generate("the cat", 5, Sampling(2.0, 50, 0.9, 3), raw=True)
    assert sampled != variant.generate("the cat", 5)


def test_a_path_without_a_variant_is_an_error_only_when_it_is_read(tmp_path: Path, done: Path) -> None:
    with pytest.raises(UsageError, match="missing: no such file or folder"):
        validate(tmp_path / "missing")
    variant = Variant(tmp_path / "missing")
    for read, words in ((lambda: variant.figures, "no such folder"), (lambda: variant.generate("a"), "no onnx/model")):
        with pytest.raises(ArtifactError, match=words):
            read()
    with pytest.raises(ArtifactError, match="hf is missing"):
        _ = Variant(done).figures


def test_files_that_are_damaged_fail_the_validation(done: Path) -> None:
    data = done / "a-0.2" / "onnx" / "model.onnx"
    data.write_bytes(data.read_bytes()[:-1] + b"x")
    told = [done / f"told.{suffix}" for suffix in ("json", "xml", "html")]
    result = validate(done, out=told[0], junit=told[1], html=told[2])
    assert not result.passed
    assert result.failure.startswith("a-0.2: integrity")
    assert result.failure == json.loads(told[0].read_text())["failure"]
    assert all(path.is_file() for path in told)
    with pytest.raises(UsageError, match="already exists"):
        validate(done, out=told[0])


def test_a_target_is_met_or_raises(inputs: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {**FEW, "quality": True, "format": "onnx:int8"}
    result = export(inputs / "m", {"a": TEXTS["a"]}, target_size="1MB", out=tmp_path / "out", **options)
    assert result.passed, result.failure
    assert result.frontier == json.loads((tmp_path / "out" / "frontier.json").read_text())
    with pytest.raises(UsageError, match="out of reach"):
        export(inputs / "m", {"a": TEXTS["a"]}, target_size="1kB", out=tmp_path / "other", **options)
    assert not (tmp_path / "other").exists()


def test_prune_and_convert_write_what_the_export_does(inputs: Path, done: Path, tmp_path: Path) -> None:
    variant = done / "a-0.2"
    texts = done / "calibration" / "a"
    model = prune(inputs / "m", plan=variant / "plan.json", calibration=texts, out=tmp_path / "shrunk")
    assert tree(model.path, CARD) == tree(variant / "hf", CARD)
    manifest = json.loads((done / "manifest.json").read_text())
    assert model.num_parameters == manifest["variants"]["a-0.2"]["num_parameters"]
    written = convert(model.path, out=tmp_path / "written")
    assert tree(written.path) == tree(variant / "onnx")
    assert written.bytes == sum(map(len, tree(variant / "onnx", ("SHA256SUMS",)).values()))
    command = ("convert", model.path, "--format", "onnx:int4", "--calibration", texts)
    assert run_here(*command, "--out", tmp_path / "run").code == 0
    rounded = convert(model.path, format="onnx:int4", calibration=[texts], out=tmp_path / "called")
    assert tree(rounded.path) == tree(tmp_path / "run")
    with pytest.raises(UsageError, match="no effect without --format onnx"):
        convert(model.path, format="gguf", logits="last", out=tmp_path / "other")


def test_evaluate_returns_the_figures_that_the_command_writes(inputs: Path, done: Path, tmp_path: Path) -> None:
    held_out = [f"{text} home again" for text in TEXTS["b"][:8]]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in held_out))
    told = tmp_path / "told.json"
    options: dict[str, Any] = {"dense": inputs / "m", "runtime": "onnxruntime", "limit": 8}
    report = evaluate(done / "a-0.2", text={"b": held_out}, out=told, max_kl=1e-9, **options)
    words = ("--dense", inputs / "m", "--runtime", "onnxruntime", "--limit", "8", "--max-kl", "1e-9")
    texts = ("--text", f"b={tmp_path / 'b.jsonl'}", "--out", tmp_path / "run.json")
    assert run_here("evaluate", done / "a-0.2", *words, *texts).code == 4
    assert told.read_bytes() == (tmp_path / "run.json").read_bytes()
    assert not report.passed
    assert report.divergence["onnx"].kl.mean == json.loads(told.read_text())["divergence"]["onnx"]["mean_kl_nats"]
    with pytest.raises(InputError, match="used for calibration"):
        evaluate(done / "a-0.2", text={"a": TEXTS["a"]}, **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"ratio": 1.5}, UsageError, "1.5.*out of range"),
        ({"ratio": 0.2, "layout": "even"}, UsageError, "even.*per-layer, uniform"),
        ({"ratio": 0.2, "tasks": {"a": ["x"]}}, InputError, "1 distinct text"),
    ],
)
def test_errors_are_those_of_the_command(
    inputs: Path, tmp_path: Path, options: dict[str, Any], error: type[SeapError], words: str
) -> None:
    with pytest.raises(error, match=words):
        export(inputs / "m", **{"tasks": {"a": TEXTS["a"]}, "out": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


def test_progress_and_warnings_are_printed_if_asked_for(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {**FEW, "ratio": 0.2, "samples": 1, "format": "hf", "out": tmp_path / "out"}
    with pytest.warns(UserWarning, match="too few"):
        export(inputs / "m", {"a": TEXTS["a"]}, **options)
    assert capsys.readouterr() == ("", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        export(inputs / "m", {"a": TEXTS["a"]}, progress=True, force=True, **{**options, "seed": 1})
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line for line in ("calibrating a", "Warning: task 'a': ") if line not in printed.err] == []


def test_dry_runs_return_what_the_command_shows_and_write_nothing(inputs: Path, tmp_path: Path, done: Path) -> None:
    written = times_of_writing(done)
    planned = export(inputs / "m", {"a": TEXTS["a"]}, ratio=[0.2, 0.4], out=done, dry_run=True, **FEW)
    assert (planned.passed, planned.failure, planned.checks, planned.variants) == (True, "", (), {})
    assert planned.planned is not None
    command = ("export", inputs / "m", "--task", f"a={inputs / 'a.jsonl'}", "--ratio", "0.2", "--ratio", "0.4")
    few = ("--set", "held_out=15", "--set", "prompts=1", "--out", done)
    told = json.loads(run_here(*command, *few, "--dry-run", "--json").out)
    assert told["variants"] == list(planned.planned.variants)
    assert [row["exists"] for row in planned.planned.variants] == [True, False]
    assert told["disk_about"] == vars(planned.planned.disk)
    assert list(told["seconds_about"]) == list(planned.planned.seconds)

    report = evaluate(done / "a-0.2", dense=inputs / "m", dry_run=True, out=tmp_path / "told.json", max_kl=1e-9)
    command = ("evaluate", done / "a-0.2", "--dense", inputs / "m", "--dry-run", "--json")
    assert json.loads(run_here(*command).out) == {"planned": report.planned}
    assert (len(report.planned), report.passed, report.divergence) == (1, True, {})
    assert not (tmp_path / "told.json").exists()
    assert times_of_writing(done) == written
