"""A variant as a model: pruned again, and rounded after its weights were trained."""

from __future__ import annotations

from pathlib import Path

from support.editing import edit_weights
from support.exports import Run
from support.product import read_plan

from seap_export.common.checksums import SUMS
from seap_export.common.json_file import read_json
from seap_export.model.families import model_spec

PRUNED = "out/a-0.4/hf"


def test_a_variant_is_pruned_again(run: Run, done: Path) -> None:
    assert (
        run("export", PRUNED, "--task", "a=a.jsonl", "--ratio", "0.3", "--precision=int4", "--out", "again").code == 0
    )
    variant = Path("again/a-0.3")
    once, twice = (model_spec(read_json(folder / "config.json")) for folder in (Path(PRUNED), variant / "hf"))
    assert twice.num_parameters() < once.num_parameters()
    assert read_plan(variant / "plan.json").shrunk_spec(once).layers == twice.layers
    answer, figures = ("generate", variant, "the cat"), ("plot", "again", "--out", "p")
    for command in (("validate", "again"), ("inspect", "again"), answer, figures):
        assert run(*command).code == 0, command


def test_a_variant_that_was_trained_is_rounded(run: Run, done: Path) -> None:
    """Tools that train it leave its class and shapes, and no list of hashes."""
    edit_weights(Path(PRUNED), lambda tensors: tensors.update({name: 1.01 * one for name, one in tensors.items()}))
    (Path(PRUNED) / SUMS).unlink()
    rounded = ("--ratio", "0", "--precision", "int4", "--out", "rounded")
    outcome = run("export", PRUNED, "--task", "a=a.jsonl", *rounded)
    assert outcome.code == 0, outcome.err
    assert run("validate", "rounded").code == 0
    before, after = (model_spec(read_json(Path(folder) / "config.json")) for folder in (PRUNED, "rounded/a-0/hf"))
    assert before == after
