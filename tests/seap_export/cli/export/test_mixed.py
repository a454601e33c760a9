"""`seap-export export` for several tasks together, and the router that chooses between them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.corpora import task_texts, write_task_corpora
from support.exports import CARD, Outcome, Run, times_of_writing, tree
from support.product import GENERAL_TEXT

from seap_export.pipeline.steps.joint import router

TASKS = ("--task", "a=a.jsonl", "--task", "b=b.jsonl")
MIXTURES = ("--general", "--set", "weight.b=3", "--set", "mix.x=a:2,b")
MIXED = ("export", "m", *TASKS, *MIXTURES, "--ratio", "0.3", "--out", "out")
NAMES = ["a-0.3", "b-0.3", "general-0.3", "x-0.3"]


@pytest.fixture(scope="module")
def once(place: Path, done_in: Callable[..., Outcome]) -> Path:
    """A folder with an undisturbed run of `MIXED` in `out`; not to be changed."""
    write_task_corpora(place)
    done_in(place, *MIXED)
    return place


def manifest_of(out: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((out / "manifest.json").read_text("utf-8"))
    return values


def router_of(out: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((out / "router" / "router.json").read_text("utf-8"))
    return values


def test_every_mixture_gets_a_proven_variant_and_the_router_leads_to_those_of_tasks(run: Run, home: Path) -> None:
    manifest = manifest_of(home / "out")
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
        plan = json.loads((home / "out" / name / "plan.json").read_text("utf-8"))
        assert {key: plan[key] for key in ("task", "weights", "method")}.items() <= variant.items()
    weights = {(home / "out" / name / "hf" / "model.safetensors").read_bytes() for name in NAMES}
    assert len(weights) == len(NAMES)
    values = router_of(home / "out")
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
    assert tree(home / "out") == before
    assert run(*other, "--set", "router=false").code == 0
    assert router_of(home / "out")["classes"] == ["a", "b"]


def test_a_router_that_no_held_out_prompt_can_test(run: Run, bare: Path) -> None:
    """Every prompt of a task is the same one, so that all held-out prompts are calibration prompts too."""
    for task in "ab":
        (bare / f"{task}.toml").write_text(
            f'corpus = "{task}.jsonl"\nprompt = "the cat {task}"\ncompletion = "{{text}}"'
        )
    tasks = ("--task", "a=a.toml", "--task", "b=b.toml")
    outcome = run("export", "m", *tasks, "--ratio", "0.3", "--out", "out")
    assert outcome.code == 0, outcome.err
    assert "router: fitting a, b" in outcome.err
    assert "held-out prompts go to their task" not in outcome.err
    assert router_of(bare / "out")["held_out"]["prompts"] == 0


def test_a_router_that_computes_something_else_fails_like_parity(
    run: Run, bare: Path, once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = router.write_router_graph
    monkeypatch.setattr(
        router, "write_router_graph", lambda path, e, weight, bias: write(path, e, weight, bias + np.array([0.0, 1.0]))
    )
    outcome = run(*MIXED)
    assert outcome.code == 3
    assert outcome.err.splitlines()[-1].startswith("Error: router: ")
    assert set(NAMES) == manifest_of(bare / "out")["variants"].keys()
    assert not (bare / "out" / "router").exists()
    assert not manifest_of(bare / "out")["complete"]

    monkeypatch.setattr(router, "write_router_graph", write)
    before = times_of_writing(bare / "out" / "x-0.3")
    assert run(*MIXED, "-q").code == 0
    after = times_of_writing(bare / "out" / "x-0.3")
    assert {path: after[path] for path in before} == before
    assert tree(bare / "out") == tree(once / "out")


def test_a_mixture_by_hand_is_what_export_makes(run: Run, home: Path) -> None:
    statistics = ("--calibration", "hand/calibration/b", "--calibration", "hand/calibration/a")
    assert run("calibrate", "m", *TASKS, "--out", "hand", "-q").code == 0
    folder = "hand/general-0.3"
    plan = ("plan", "m", *statistics, "--weight", "b=3", "--ratio", "0.3", "--out", f"{folder}/plan.json", "-q")
    assert run(*plan).code == 0
    outcome = run("prune", "m", "--plan", f"{folder}/plan.json", *statistics, "--out", f"{folder}/hf", "-q")
    assert (outcome.code, outcome.err) == (0, "")
    assert run("convert", f"{folder}/hf", "--out", f"{folder}/onnx", "-q").code == 0
    assert tree(home / folder, CARD) == tree(home / "out" / "general-0.3", {"parity.json", *CARD})


@pytest.mark.parametrize(
    "recipe",
    [
        'score = "elimination"\nbalance = "alike"\n[sparsity]\nkind = "logistic"',
        'score = "wifv"\ncompensation = "bias"\n[sparsity]\nbudget = "bytes"',
    ],
)
def test_a_changed_recipe_is_custom_and_proven(run: Run, bare: Path, recipe: str) -> None:
    (bare / "mine.toml").write_text(recipe)
    outcome = run("export", "m", *TASKS[:2], "--recipe", "mine.toml", "--ratio", "0.3", "--out", "out", "--json")
    assert outcome.code == 0, outcome.err
    variant = json.loads(outcome.out)["variants"]["a-0.3"]
    assert (variant["method"], variant["parity"]["onnx"]["verdict"]) == ("custom", "passed")
    assert run("plot", "out", "--out", "pictures", "-q").code == 0  # checks the plan's ratio against its budget


def test_support_is_calibrated_on_and_nothing_is_measured_on_it(run: Run, bare: Path) -> None:
    (bare / "g.txt").write_text("\n\n".join(f"the dog {index} ran to the cat" for index in range(30)))
    supported = ("export", "m", *TASKS, "--support", "g.txt:0.4", "--ratio", "0.3", "--quality", "--out", "out", "-q")
    assert run(*supported, "--dry-run").code == 0
    assert run(*supported).code == 0
    manifest = manifest_of(bare / "out")
    assert {name: variant["weights"] for name, variant in manifest["variants"].items()} == {
        "a-0.3": {"a": 0.6, "support": 0.4},
        "b-0.3": {"b": 0.6, "support": 0.4},
    }
    support = manifest["tasks"]["support"]
    assert (support["calibration_texts"], support["held_out_texts"]) == (30, 0)
    assert sorted(router_of(bare / "out")["classes"]) == ["a", "b"]
    assert run("export", "m", *TASKS[:2], "--ratio", "0.3", "--quality", "--out", "alone", "-q").code == 0
    with_support, without = (
        json.loads((bare / out / "a-0.3" / "quality.json").read_text()) for out in ("out", "alone")
    )
    assert with_support["texts"] == without["texts"]
    assert with_support["divergence"] != without["divergence"]
    assert list(with_support["elsewhere"]["onnx"]) == ["a", "b", GENERAL_TEXT]
    again = times_of_writing(bare / "out")
    assert run(*supported).code == 0
    assert times_of_writing(bare / "out") == again
