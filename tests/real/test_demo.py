"""`make demo` makes a proven variant of SmolLM2-135M for each task, and a router."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.product import KeptNeurons, read_plan

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_demo_makes_a_proven_variant_of_each_task(demo: Path, tasks: list[str]) -> None:
    """Proven with a long text, and exactly where nothing is rounded."""
    manifest = json.loads((demo / "manifest.json").read_text("utf-8"))
    validated = json.loads((demo / "validation.json").read_text("utf-8"))["variants"]
    assert manifest["complete"]
    for name in (f"{task}-0.5" for task in tasks):
        variant, cases = manifest["variants"][name], validated[name]["parity"]["onnx"]
        parity = variant["parity"]["onnx"]
        made = (variant["method"], variant["precision"]["onnx"], parity["verdict"])
        assert made == ("reconstruct", "int4", "passed")
        assert abs(variant["achieved_ratio"] - 0.5) <= 0.005
        assert 0 < parity["max_abs"] <= 1e-3
        assert 0 < parity["mean_kl_nats"] <= 0.05
        assert cases["longest_tokens"] == 2048
        exact = [stage for stage in cases["cases"] if stage["case"].endswith(", in float32")]
        assert len(exact) >= 6
        assert max(stage["max_abs"] for stage in exact) == cases["max_abs"] < 1e-3
        assert all(stage["top1_agreement"] == 1.0 and stage["mean_kl_nats"] < 1e-7 for stage in exact)


@pytest.mark.release
def test_the_tasks_keep_different_neurons_and_a_router_knows_them(demo: Path, tasks: list[str], run: Run) -> None:
    plans = [read_plan(demo / f"{task}-0.5" / "plan.json") for task in tasks]
    assert len({tuple(layer[KeptNeurons].units for layer in plan.layers) for plan in plans}) == 2
    router = json.loads((demo / "router" / "router.json").read_text("utf-8"))
    assert router["classes"] == sorted(tasks)
    assert router["held_out"]["prompts"] >= 30
    assert router["held_out"]["accuracy"] > 0.9
    held_out = json.loads((demo / "calibration" / "purchases" / "calibration.json").read_text("utf-8"))["held_out"]
    route = json.loads(run("route", demo, held_out[0]["question"], "--ratio", "0.5", "--json").stdout)
    assert (route["task"], Path(route["variant"]).name) == ("purchases", "purchases-0.5")


def test_the_demo_recommends_the_variants_which_have_learnt_their_jobs(demo: Path, tasks: list[str]) -> None:
    """Less than half of the size of the whole model in int4, and right more often."""
    report = json.loads((demo / "validation.json").read_text("utf-8"))
    for task in tasks:
        found = report["recommended"][task]
        files = {file["name"]: file for file in found["files"]}
        chosen, whole = files[f"{task}-0.5/onnx"], files[f"{task}-whole-int4"]
        assert (found["file"], found["rule"]) == (chosen["name"], "as right as the best")
        assert chosen["bytes"] < 0.45 * whole["bytes"]
        right = chosen["accuracy"][task]
        assert right["questions"] == 75
        assert right["share"] > max(0.85, whole["accuracy"][task]["share"])


def test_answers_are_shown_and_the_readmes_is_right(demo: Path, tasks: list[str], run: Run) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    (example,) = re.findall(r"^seap-export (generate jobs/dates-0\.5 .*)$", readme, flags=re.MULTILINE)
    answer = run(*shlex.split(example.replace("jobs/", f"{demo}/"))).stdout.strip()
    assert f"It says `{answer}`:" in readme
    for name in tasks:
        sample = json.loads((demo / f"{name}-0.5" / "quality.json").read_text("utf-8"))["sample"]
        record = json.loads((demo / "calibration" / name / "calibration.json").read_text("utf-8"))
        assert sample["prompt"] in {held_out.get("question", held_out["prompt"]) for held_out in record["held_out"]}
        assert sample["dense"].strip()
        assert sample["variant"].strip()
        assert "\n" not in sample["dense"] + sample["variant"], "all jobs end an answer there"
