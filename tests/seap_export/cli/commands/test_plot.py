"""`plot`: what it draws from an export, and that bad input leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.editing import edit_json
from support.exports import Run, tree

PICTURES = [
    "sparsity-0.2.svg", "overlap-0.2.svg", "sparsity-0.4.svg", "overlap-0.4.svg",
    "kept-a-0.2.svg", "kept-a-0.4.svg", "kept-b-0.2.svg", "kept-b-0.4.svg",
]  # fmt: skip


def write_evaluation(path: Path) -> Path:
    made = {"variant": "a-0.2", "task": "a", "method": None, "requested_ratio": 0.2, "achieved_ratio": 0.2121}
    recipe = {"score": "wifv", "sparsity": "logistic", "compensation": "bias"}
    divergence = {"hf": {"mean_kl_nats": 0.125, "perplexity": 12.0, "dense_perplexity": 10.0}}
    report = {"schema": "seap-export/evaluation/2", **made, **recipe, "divergence": divergence, "zero_shot": None}
    path.write_text(json.dumps(report), "utf-8")
    return path


def test_an_export_as_pictures_and_numbers(run: Run, done: Path, work: Path) -> None:
    before = tree(done)
    report = write_evaluation(work / "r.json")
    outcome = run("plot", "out", "--evaluation", report, "--out", "pictures", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    numbers = json.loads(outcome.out)
    assert numbers == json.loads((work / "pictures" / "plots.json").read_text("utf-8"))
    assert numbers["schema"] == "seap-export/plots/1"
    assert numbers["pictures"] == [*PICTURES, "quality.svg"]
    assert {path.name for path in (work / "pictures").iterdir()} == {*numbers["pictures"], "plots.json"}
    assert tree(done) == before

    for name, variant in numbers["variants"].items():
        shown = json.loads(run("inspect", f"out/{name}", "--json").out)
        layers = shown["model"]["layers"]
        assert variant["heads_kept"] == [layer["num_attention_heads"] for layer in layers]
        assert variant["neurons_kept"] == [layer["intermediate_size"] for layer in layers]
        assert variant["removed"]["mlp"] == pytest.approx([1 - kept / 80 for kept in variant["neurons_kept"]])
        # all layers of the micro model are as large, so that the mean of the layers is the ratio
        assert sum(variant["removed"]["total"]) / 3 == pytest.approx(variant["achieved_ratio"])
    assert numbers["overlap"]["0.4"]["neurons"]["names"] == ["a-0.4", "b-0.4"]
    (point,) = numbers["quality"]
    assert (point["series"], point["achieved_ratio"], point["mean_kl_nats"]) == ("SEAP", 0.2121, 0.125)

    read = (work / "pictures" / "sparsity-0.2.svg").read_text("utf-8")
    for label in ("Weights removed by layer at ratio 0.2", "attention", "MLP", "a: 20.2% of all removed"):
        assert f"<!-- {label}" in read


def test_pictures_are_replaced_with_force_only(run: Run, done: Path, work: Path) -> None:
    assert run("plot", "out/a-0.2", "out/b-0.2", "--out", "p", "--quiet").code == 0
    before = tree(work)
    run("plot", "out/a-0.2", "--out", "p").refused(2, "p already exists; ")
    run("plot", "out/a-0.2", "--out", "out/a-0.2", "--force").refused(2, "is not empty")
    assert tree(work) == before
    assert run("plot", "out/a-0.2", "--out", "p", "--force", "--quiet").code == 0
    assert set(tree(work / "p")) == {"sparsity-0.2.svg", "kept-a-0.2.svg", "plots.json"}


def test_bad_input(run: Run, done: Path, work: Path) -> None:
    shutil.copytree(done / "a-0.2", work / "x")
    edit_json(work / "x" / "plan.json", lambda plan: plan.update(source_sha256="0" * 64, source_name="n"))
    (done / "b-0.2" / "plan.json").write_bytes((done / "b-0.2" / "plan.json").read_bytes() + b"\n")
    before = tree(work)
    run("plot", "out", "--out", "p", "--json").refused_in_json(7, "out/b-0.2/plan.json")
    run("plot", "out/a-0.2", "x", "--out", "p", "--json").refused_in_json(2, "('m', 'n'); ")
    assert tree(work) == before


def test_other_commands_load_neither_matplotlib_nor_ray() -> None:
    code = "import sys, seap_export.cli, seap_export.pipeline.export, seap_export.pipeline.plots; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"matplotlib", "ray"} & set(done.stdout.split())
