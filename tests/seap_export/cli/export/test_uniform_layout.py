"""`--layout uniform` through every command: variants that are plain models of their family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.exports import CARD, Outcome, Run, tree
from support.product import read_plan
from transformers import AutoModelForCausalLM

EXPORT = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.4", "--layout", "uniform", "--out", "out")


@pytest.fixture(scope="module")
def once(place: Path, done_in: Callable[..., Outcome]) -> Path:
    """A folder with an export at ratio 0.4 in `out`; not to be changed."""
    done_in(place, *EXPORT)
    return place


def test_it_loads_as_a_plain_model_of_its_family(home: Path) -> None:
    plan = read_plan(home / "out/a-0.4/plan.json")
    layout, sparsity = plan.settings.layout, plan.settings.sparsity
    assert (layout, sparsity.kind, sparsity.protect_first) == ("uniform", "uniform", 0)
    model, info = AutoModelForCausalLM.from_pretrained(
        home / "out/a-0.4/hf", output_loading_info=True, trust_remote_code=False
    )
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not any(info.values())
    assert not list((home / "out/a-0.4/hf").glob("*.py"))


def test_the_steps_by_hand_give_what_export_gives(run: Run, home: Path) -> None:
    """`prune --force` replaces a plain pruned model, and no dense one."""
    variant = home / "out" / "a-0.4"
    before = tree(variant / "hf", CARD)
    prune = ("prune", "m", "--plan", variant / "plan.json", "--calibration", "out/calibration/a", "-q", "--out")
    run(*prune, "out/a-0.4/hf").refused(2, "out/a-0.4/hf already exists")
    assert run(*prune, variant / "hf", "--force").code == 0
    assert tree(variant / "hf", CARD) == before
    run(*prune, "m", "--force").refused(2, "m is not empty")
    assert run("convert", variant / "hf", "--out", "onnx", "-q").code == 0
    assert tree(Path("onnx")) == tree(variant / "onnx")
