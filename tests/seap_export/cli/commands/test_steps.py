"""The steps one by one: what they print, and that they make what `export` makes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.editing import set_json
from support.exports import CARD, Run, tree
from support.models import write_micro_model

from seap_export.cli import main

STATISTICS = "run/calibration/a"
CALIBRATE = ("calibrate", "m", "--task", "a=a.jsonl", "--out", "run")
PLAN = ("plan", "m", "--calibration", STATISTICS, "--ratio", "0.2", "--out", "run/a-0.2/plan.json")
PRUNE = ("prune", "m", "--plan", "run/a-0.2/plan.json", "--calibration", STATISTICS, "--out", "run/a-0.2/hf")
CONVERT = ("convert", "run/a-0.2/hf", "--out", "run/a-0.2/onnx")
VALIDATE = ("validate", "run/a-0.2", "--out", "run/validation.json")
PLAN_TEXT = """\
layer  removed  heads  KV heads  neurons
0         0.0%      6         3       80
1         0.0%      6         3       80
2        60.6%      1         1       48
a, method reconstruct: ratio requested 0.2, achieved 0.2020 of the attention and MLP weights
parameters 171,168 -> 140,640; weights alone: 563 kB as safetensors, 563 kB as onnx in fp32
"""


def test_the_steps_by_hand_make_what_export_makes(run: Run, work: Path, pristine: Path) -> None:
    outcome = run(*CALIBRATE)
    assert (outcome.code, outcome.err) == (0, "hashing m\ncalibrating a\na: hidden states in memory (0.2 MB)\n")
    table = "task  texts  tokens  statistics\na        44     619  run/calibration/a\n"
    assert outcome.out == table

    outcome = run(*PLAN)
    left_out = "not distilled: 619 calibration tokens, fewer than min_tokens = 16384\n"
    assert (outcome.code, outcome.out) == (0, PLAN_TEXT)
    assert outcome.err == f"hashing m\nranking a\nplanning\n{left_out}"
    outcome = run(*PRUNE)
    assert (outcome.code, outcome.err) == (0, "hashing m\nshrinking\n")
    assert outcome.out == "run/a-0.2/hf: 140,640 parameters\n"
    outcome = run(*CONVERT)
    assert (outcome.code, outcome.err, outcome.out) == (0, "writing ONNX\n", "run/a-0.2/onnx: 192 kB\n")
    outcome = run(*VALIDATE)
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "passed"
    assert outcome.err.startswith("a-0.2: checking files\na-0.2: comparing ONNX Runtime with torch\n")

    expected = tree(pristine / "a-0.2", CARD)
    parity = json.loads(expected.pop("parity.json"))
    assert json.loads((work / "run" / "validation.json").read_text())["variants"]["a-0.2"]["parity"]["onnx"] == parity
    assert tree(work / "run" / "a-0.2", CARD) == expected
    assert tree(work / "run" / "calibration" / "a") == tree(pristine / "calibration" / "a")
    assert [path.name for path in work.iterdir() if path.name.startswith(".")] == []


def test_export_goes_on_from_calibrate(run: Run, work: Path, pristine: Path) -> None:
    outcome = run("calibrate", "m", "--task", "b=b.jsonl", "--task", "a=a.jsonl", "--out", "out", "--json")
    told = {"statistics": "out/calibration/a", "texts": 44, "tokens": 619}
    assert (outcome.code, json.loads(outcome.out)["tasks"]["a"]) == (0, told)
    run("validate", "out", "-q").refused(7, "no variant", "made by hand")
    outcome = run("inspect", "out")
    assert outcome.out.startswith("export of m (llama), not complete: ")
    assert outcome.out.endswith("calibrated: a, b; 12 files as in the manifest\n")
    outcome = run("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out")
    assert "calibration of a: reused" in outcome.err
    assert "calibrating" not in outcome.err
    assert tree(work / "out" / "a-0.2", CARD) == tree(pristine / "a-0.2", CARD)


@pytest.mark.parametrize(
    ("command", "out"),
    [
        (("plan", "m", "--calibration", "out/calibration/a", "--ratio", "0.2"), "out/a-0.2/plan.json"),
        (("prune", "m", "--plan", "out/a-0.2/plan.json", "--calibration", "out/calibration/a"), "out/a-0.2/hf"),
        (("convert", "out/a-0.2/hf"), "out/a-0.2/onnx"),
    ],
)
def test_a_step_replaces_its_own_kind_with_force_only(
    run: Run, done: Path, work: Path, command: tuple[str, ...], out: str
) -> None:
    before = tree(work, CARD)
    run(*command, "--out", out, "--quiet").refused(2, f"{out} already exists; ")

    assert run(*command, "--out", out, "--force", "--quiet").code == 0
    assert tree(work, CARD) == before


def test_help_has_examples_commands_and_exit_codes(run: Run) -> None:
    for name in main.commands:
        outcome = run(name, "--help")
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.startswith(f"Usage: seap-export {name} [OPTIONS]")
        assert re.search(rf"Examples?:\n +seap-export {name}\b", outcome.out)
    shown = run("--help").out
    assert run().out == shown
    offsets = [shown.index(f"\n  {name} ") for name in main.commands]
    assert offsets == sorted(offsets)
    assert shown.count("...") == 1  # of the usage; no description is cut off
    assert "\n    7  an artifact is damaged or incomplete\n" in shown
    run("nonsense").refused(2, "No such command 'nonsense'", "see 'seap-export --help'")


def test_convert_of_a_truncated_model(run: Run, done: Path, work: Path) -> None:
    path = done / "a-0.2" / "hf" / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:50])
    before = tree(work, CARD)
    run("convert", "out/a-0.2/hf", "--out", "new/onnx", "--quiet").refused(8)
    assert tree(work, CARD) == before
    assert not (work / "new").exists()


def test_plan_and_statistics_of_another_model(run: Run, done: Path, work: Path) -> None:
    write_micro_model(work / "other", seed=1, model_type="llama")
    plan = ("plan", "other", "--calibration", "out/calibration/a", "--quiet")
    run(*plan, "--ratio", "0.2").refused(8, "'a'", "calibrate again")
    pruned = run("prune", *plan[1:], "--plan", "out/a-0.2/plan.json", "--out", "new")
    pruned.refused(8, "plan was not made from the model 'other'")
    assert not (work / "new").exists()


def test_inspect_an_export_a_variant_and_a_model(run: Run, done: Path) -> None:
    first, second, header, *rows = run("inspect", "out").out.splitlines()
    assert first == "export of m (llama), complete"
    assert "101 files" in second
    assert header.split() == ["variant", "hf", "onnx", "parity", "removed", "parameters", "tasks", "method"]
    assert [[row.split()[0], *row.split()[5:7], *row.split()[-2:]] for row in rows] == [
        [f"{task}-0.{ratio}", "passed", f"0.{ratio}0{ratio}0", task, "reconstruct"] for task in "ab" for ratio in "24"
    ]
    described = json.loads(run("inspect", "out", "--json").out)
    assert (described["kind"], described["complete"]) == ("export", True)
    assert described["tasks"]["a"]["calibration_texts"] == 44

    lines = run("inspect", "out/a-0.2").out.splitlines()
    assert lines[1].startswith("method reconstruct: score elimination, adaptive sparsity, compensation sequential")
    assert lines[2] == "ratio requested 0.2, achieved 0.2020"
    assert re.fullmatch(r"parity: passed \(max abs \d\.\de-\d\)", lines[3])
    assert lines[5] == "hf: llama, pruned, 140,640 parameters, float32"
    kept = [["0", "6", "3", "80"], ["1", "6", "3", "80"], ["2", "1", "1", "48"]]
    assert [line.split() for line in lines[8:]] == kept
    described = json.loads(run("inspect", "out/a-0.2", "--json").out)
    assert (described["method"], described["parity"]["onnx"]["verdict"]) == ("reconstruct", "passed")
    set_json(done / "a-0.2" / "parity.json", verdict="failed", max_abs=None)
    assert "parity: failed (max abs -)" in run("inspect", "out/a-0.2").out.splitlines()

    for path, kind, parameters in (("m", "dense", "171,168"), ("out/a-0.2/hf", "pruned", "140,640")):
        name = Path(path).name
        assert run("inspect", path).out.startswith(f"{name}: llama, {kind}, {parameters} parameters, float32\n")
        described = json.loads(run("inspect", path, "--json").out)
        assert (described["pruned"], len(described["layers"])) == (kind == "pruned", 3)


def test_convert_to_another_precision(run: Run, done: Path, work: Path) -> None:
    size = (done / "a-0.2" / "onnx" / "model.onnx.data").stat().st_size
    for options, smaller in (
        (("--precision", "int4", "--block-size", "128", "--asymmetric", "--float-embeddings"), 1.5),
        (("--provider", "cuda", "--precision", "int4", "--activations", "bf16", "--logits", "all"), 0.7),
        (("--provider", "cuda", "--precision", "fp32", "--dialect", "standard"), 4.0),
    ):
        outcome = run("convert", "out/a-0.2/hf", *options, "--out", "new", "--force", "--json", "--quiet")
        assert outcome.code == 0
        data = (work / "new" / "model.onnx.data").stat().st_size
        assert data < smaller * size
        assert json.loads(outcome.out)["bytes"] > data


def test_convert_and_inspect_warn_of_sizes_that_cuda_has_no_kernel_for(run: Run, done: Path, work: Path) -> None:
    form = ("--provider", "cuda", "--precision", "int8")
    outcome = run("convert", "out/a-0.2/hf", *form, "--out", "new")
    assert outcome.code == 0
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("Warning: ")]
    assert "no fast int8 kernel for o_proj of layers 2, down_proj of layers 0-2" in line
    assert line.endswith("; use int4")
    assert run("inspect", "out/a-0.2", "--json").out.count('"warning": null') == 1  # it is written for the CPU

    (done / "a-0.2" / "onnx").rename(work / "old")
    (work / "new").rename(done / "a-0.2" / "onnx")
    assert json.loads(run("inspect", "out/a-0.2", "--json").out)["warning"] in line
    assert "down_proj of layers " in run("inspect", "out/a-0.2").out
