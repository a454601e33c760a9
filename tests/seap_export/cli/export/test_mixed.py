"""`seap-export export` for several tasks together, and the router that chooses between them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.corpora import task_texts, write_task_corpora
from support.exports import Outcome, Run, times_of_writing, tree
from support.product import GENERAL_TEXT

from seap_export.common.json_file import read_json
from seap_export.pipeline.steps.joint import router

TASKS = ("--task", "a=a.jsonl", "--task", "b=b.jsonl")
MIXTURES = ("--general", "--set", "weight.b=3", "--set", "mix.x=a:2,b")
MIXED = ("export", "m", *TASKS, *MIXTURES, "--ratio", "0.3", "--out", "out")
MANIFEST, ROUTER = Path("out/manifest.json"), Path("out/router/router.json")
NAMES = ["a-0.3", "b-0.3", "general-0.3", "x-0.3"]


@pytest.fixture(scope="module")
def once(place: Path, done_in: Callable[..., Outcome]) -> Path:
    """A folder with an undisturbed run of `MIXED` in `out`; not to be changed."""
    write_task_corpora(place)
    done_in(place, *MIXED)
    return place


def test_every_mixture_gets_a_proven_variant_and_the_router_leads_to_those_of_tasks(run: Run, home: Path) -> None:
    manifest = read_json(MANIFEST)
    assert manifest["complete"]
    assert list(manifest["variants"]) == NAMES
    weights_of = {name: (variant["task"], variant["weights"]) for name, variant in manifest["variants"].items()}
    assert weights_of == {
        "a-0.3": ("a", {"a": 1.0}),
        "b-0.3": ("b", {"b": 1.0}),
        "general-0.3": ("general", {"a": 1.0, "b": 3.0}),
        "x-0.3": ("x", {"a": 2.0, "b": 1.0}),
    }
    for name, variant in manifest["variants"].items():
        assert (variant["method"], variant["parity"]["onnx"]["verdict"]) == ("reconstruct", "passed")
        plan = read_json(home / "out" / name / "plan.json")
        assert {key: plan[key] for key in ("task", "weights", "method")}.items() <= variant.items()
    weights = {(home / "out" / name / "hf" / "model.safetensors").read_bytes() for name in NAMES}
    assert len(weights) == len(NAMES)
    values = read_json(ROUTER)
    assert values["classes"] == ["a", "b"]
    assert values["variants"] == {"0.3": {"a": "a-0.3", "b": "b-0.3"}}
    assert values["fallback"] == {"0.3": "general-0.3"}
    assert values["threshold"] == 0.7
    assert values["held_out"]["accuracy"] > 0.8
    prompt = task_texts("b", 1, seed=9)[0]
    route = json.loads(run("route", "out", prompt, "--generate", "2", "--json").out)
    assert (route["task"], route["variant"]) == ("b", "out/b-0.3")
    assert run("route", "out", prompt, "--threshold", "1").out.endswith(": out/general-0.3\n")


def test_the_order_of_tasks_and_parts_is_no_other_input(run: Run, home: Path) -> None:
    before = times_of_writing(home / "out")
    mixtures = ("--set", "mix.x=b:1,a:2", "--general", "--set", "weight.b=3")
    outcome = run("export", "m", *TASKS[2:], *TASKS[:2], *mixtures, "--ratio", "0.3", "--out", "out", "-q")
    assert (outcome.code, outcome.err) == (0, "")
    assert times_of_writing(home / "out") == before


def test_nothing_is_left_behind_without_its_statistics_and_a_router_forgets_no_task(run: Run, home: Path) -> None:
    before = tree(home / "out")
    run("export", "m", *TASKS, "--ratio", "0.3", "--set", "seed=1", "--out", "out", "--force", "-q").refused(
        2, "--force would replace ", "out/general-0.3"
    )
    other = ("export", "m", *TASKS[2:], "--task", "c=a.jsonl", "--ratio", "0.3", "--out", "out", "-q")
    run(*other).refused(2, "out/router also covers a; ")
    assert run(*other, "--set", "router=false", "--dry-run").code == 0
    assert tree(home / "out") == before


def test_a_router_that_computes_something_else_fails_like_parity(
    run: Run, home: Path, once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = router.write_router_graph
    monkeypatch.setattr(
        router, "write_router_graph", lambda path, e, weight, bias: write(path, e, weight, bias + np.array([0.0, 1.0]))
    )
    shutil.rmtree(home / "out" / "router")
    outcome = run(*MIXED)
    assert outcome.code == 3
    assert outcome.err.splitlines()[-1].startswith("Error: router: ")
    assert not (home / "out" / "router").exists()

    monkeypatch.undo()
    monkeypatch.chdir(home)
    assert run(*MIXED, "-q").code == 0
    assert tree(home / "out") == tree(once / "out")


def test_a_changed_recipe_is_custom_and_proven(run: Run, result: Callable[..., Any], bare: Path) -> None:
    (bare / "mine.toml").write_text('score = "wifv"\ncompensation = "bias"\n[sparsity]\nbudget = "bytes"')
    words = ("--recipe", "mine.toml", "--ratio", "0.3", "--out", "out")
    variant = result("export", "m", *TASKS[:2], *words)["variants"]["a-0.3"]
    assert (variant["method"], variant["parity"]["onnx"]["verdict"]) == ("custom", "passed")
    assert run("plot", "out", "--out", "pictures", "-q").code == 0  # checks the plan's ratio against its budget


def test_support_is_calibrated_on_and_nothing_is_measured_on_it(run: Run, bare: Path) -> None:
    (bare / "g.txt").write_text("\n\n".join(f"the dog {index} ran to the cat" for index in range(30)))
    supported = ("export", "m", *TASKS, "--support", "g.txt:0.4", "--ratio", "0.3", "--quality", "--out", "out", "-q")
    assert [run(*supported, *more).code for more in (("--dry-run",), ())] == [0, 0]
    manifest = read_json(MANIFEST)
    assert {name: variant["weights"] for name, variant in manifest["variants"].items()} == {
        "a-0.3": {"a": 0.6, "support": 0.4},
        "b-0.3": {"b": 0.6, "support": 0.4},
    }
    support = manifest["tasks"]["support"]
    assert (support["calibration_texts"], support["held_out_texts"]) == (30, 0)
    assert sorted(read_json(ROUTER)["classes"]) == ["a", "b"]
    assert list(read_json(bare / "out/a-0.3/quality.json")["elsewhere"]["onnx"]) == ["a", "b", GENERAL_TEXT]
    again = times_of_writing(bare / "out")
    assert run(*supported).code == 0
    assert times_of_writing(bare / "out") == again
