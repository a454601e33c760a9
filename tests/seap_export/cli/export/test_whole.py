"""The whole model, merely rounded, that an export measures beside its variants."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.conversations import write_records
from support.corpora import WORDS
from support.exports import Run, tree
from support.product import read_manifest

from seap_export.common.json_file import read_json
from validation.reports import schema

EXPORT = ("export", "m", "--task", "a=a.jsonl", "--precision", "fp32", "--out", "out", "--quality")
PRUNED = (*EXPORT, "--ratio", "0.4")
pytestmark = pytest.mark.usefixtures("work")
NAMES = {"a-whole-int8", "a-whole-int4"}


def result(run: Run, *arguments: object) -> dict[str, Any]:
    outcome = run(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    values: dict[str, Any] = json.loads(outcome.out)
    return values


def figures(row: dict[str, Any]) -> dict[str, Any]:
    (divergence,) = row["quality"]["divergence"].values()
    return {key: value for key, value in divergence.items() if not isinstance(value, list)}


def test_it_is_what_an_export_of_ratio_0_makes_and_what_is_recommended_stays(run: Run, work: Path) -> None:
    """The micro model has fewer calibration tokens than it may be rounded with."""
    whole = result(run, *PRUNED)["whole"]
    assert whole.keys() == NAMES
    assert not list((work / "out").glob(".seap-export-unfinished-*"))
    kept = {path.name for path in (work / "out").iterdir() if path.is_dir()}
    assert kept == {"a-0.4", "a-whole-int4", "calibration", "ranking"}
    assert {name: row["folder"] for name, row in whole.items()} == {
        "a-whole-int8": None,
        "a-whole-int4": "a-whole-int4",
    }
    for precision in ("int8", "int4"):
        command = whole[f"a-whole-{precision}"]["command"].split()[1:]
        assert command[-2:] == ["--out", f"out-a-{precision}"]
        made = result(run, *command, "--quality")["variants"]["a-0"]
        row = whole[f"a-whole-{precision}"]
        assert (row["bytes"], row["refusal"]) == (made["bytes"]["onnx"], "")
        measured = {key: value for key, value in made["quality"].items() if key in figures(row)}
        assert figures(row) == pytest.approx(measured, rel=1e-6)


def test_a_variant_that_it_beats_says_so_everywhere(run: Run, work: Path) -> None:
    """In fp32 a variant is larger than the whole model in 4 bits; without a clock, the rest is certain."""
    outcome = run(*PRUNED)
    (warning,) = [line for line in outcome.err.splitlines() if "beaten" in line]
    assert "a-0.4 is beaten by the whole model in int8" in warning
    assert "seap-export export m --task a=a.jsonl --ratio 0 --precision int8 --out out-a-int8" in warning
    assert [line for line in outcome.out.splitlines() if line.startswith("a-whole-int8 ")]
    report = read_json(work / "out" / "validation.json")
    Draft202012Validator(schema()).validate(report)
    assert report["variants"]["a-0.4"]["beaten_by"] == "a-whole-int8"
    assert report["whole"].keys() == NAMES
    page = (work / "out" / "validation.html").read_text("utf-8")
    header = page[page.index("<header") : page.index("</header>")]
    assert "is beaten by the whole model in int8" in header
    assert "--ratio 0 --precision int8" in header
    assert "What to ship for a" in page
    assert result(run, *PRUNED)["variants"]["a-0.4"]["beaten_by"] == "a-whole-int8"
    assert "The whole model, merely rounded" in (work / "out" / "a-0.4" / "hf" / "README.md").read_text("utf-8")


def test_the_same_file_is_recommended_everywhere(run: Run, work: Path) -> None:
    values = result(run, *PRUNED)["recommended"]["a"]
    assert values["file"] == "a-whole-int4"
    outcome = run(*PRUNED)
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("  a: Ship the whole model in int4 ")]
    assert line.removeprefix("  a: ") == values["words"].replace("±", "+-")
    assert f"It is in {Path('out/a-whole-int4')}\n" in outcome.out
    table = outcome.out.partition("\n\n")[0]
    assert re.search(r"^a-0.4/onnx fp32 .* beaten ", table, re.MULTILINE)
    assert re.search(r"^a-whole-int4 .* ship ", table, re.MULTILINE)
    report = read_json(work / "out" / "validation.json")
    assert report["recommended"] == {"a": values}
    for shown in ("validation.html", "a-0.4/hf/README.md"):
        assert values["words"] in (work / "out" / shown).read_text("utf-8")
    judged = run("validate", "out", "--dense", "m", "--max-kl", "99", "--json")
    limited = json.loads(judged.out)["recommended"]["a"]
    assert (limited["rule"], limited["limits"]["max_kl"]) == ("limits", 99)
    said = run("validate", "out").out
    assert values["words"].replace("±", "+-") in said
    assert f"It is in {Path('out/a-whole-int4')}\n" in said
    assert run("generate", "out/a-whole-int4", "the cat").err == ""
    (work / "out" / "a-whole-int4" / "genai_config.json").unlink()
    run("validate", "out", "--check", "integrity", "--quiet").refused(7, "genai_config.json")


def test_one_that_is_recommended_later_is_made_again(run: Run, work: Path) -> None:
    """Other limits change what is recommended."""
    command = (*PRUNED, "--task", "b=b.jsonl", "--set", "router=false")
    assert run(*command).code == 0
    first, second = (work / "out" / f"{task}-whole-int4" / "model.onnx.data" for task in "ab")
    assert first.samefile(second)  # it is as large as a variant
    before = tree(work / "out")
    shutil.rmtree(work / "out" / "a-whole-int4")
    manifest = read_manifest(work / "out")
    manifest.forget("a-whole-int4")
    manifest.write(work / "out")
    assert run(*command).code == 0
    assert tree(work / "out") == before


def test_a_second_export_makes_and_measures_nothing_again(run: Run, work: Path) -> None:
    command = (*PRUNED, "--speed")
    before = result(run, *command)
    steps, files = read_json(work / "out" / "performance.json"), tree(work / "out")
    assert {"a-whole-int8/quality.json", "a-whole-int4/quality.json", "speed"} <= steps["steps"].keys()
    assert steps["speed"].keys() > NAMES
    assert result(run, *command) == before
    assert read_json(work / "out" / "performance.json")["speed"] == steps["speed"]
    assert tree(work / "out") == files


def test_a_variant_of_ratio_0_stands_for_the_whole_model(run: Run) -> None:
    command = [*EXPORT, "--ratio", "0", "--ratio", "0.4"]
    command[command.index("fp32")] = "int8"
    values = result(run, *command)
    assert values["whole"].keys() == {"a-whole-int4"}
    assert (
        values["variants"]["a-0"]["quality"]["mean_kl_nats"] < values["variants"]["a-0.4"]["quality"]["mean_kl_nats"]
    )


def test_texts_that_are_too_short_are_not_tried_again(run: Run, work: Path) -> None:
    write_records(work / "a.jsonl", [{"text": word} for word in dict.fromkeys(WORDS)])
    command = [*PRUNED, "--set", "held_out=4"]
    outcome = run(*command)
    assert outcome.code == 0, outcome.err
    assert "too short to measure quality" in outcome.err
    report = read_json(work / "out" / "validation.json")
    assert {name: row["quality"] for name, row in report["whole"].items()} == dict.fromkeys(NAMES)
    assert "rounding" not in run(*command).err
