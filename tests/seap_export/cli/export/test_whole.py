"""The whole model, merely rounded, that an export measures beside its variants."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.conversations import write_records
from support.corpora import WORDS
from support.exports import Outcome, Run, run_here, tree

from seap_export.common.json_file import read_json
from validation.reports import schema

EXPORT = ("export", "m", "--task", "a=a.jsonl", "--precision", "fp32", "--out", "out", "--quality")
PRUNED = (*EXPORT, "--ratio", "0.4")
NAMES = {"a-whole-int8", "a-whole-int4"}


@pytest.fixture(scope="module")
def once(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A folder with `PRUNED` in `out`, and what it said; not to be changed."""
    folder = Path(shutil.copytree(inputs, tmp_path_factory.mktemp("whole") / "work"))
    with chdir(folder):
        outcome = run_here(*PRUNED)
    assert outcome.code == 0, outcome.err
    return folder, outcome


@pytest.fixture
def home(once: tuple[Path, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, the current folder."""
    home = Path(shutil.copytree(once[0], tmp_path / "home"))
    monkeypatch.chdir(home)
    return home


def result(run: Run, *arguments: object) -> dict[str, Any]:
    outcome = run(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    values: dict[str, Any] = json.loads(outcome.out)
    return values


def figures(row: dict[str, Any]) -> dict[str, Any]:
    (divergence,) = row["quality"]["divergence"].values()
    return {key: value for key, value in divergence.items() if not isinstance(value, list)}


def test_it_is_what_an_export_of_ratio_0_makes_and_what_is_recommended_stays(run: Run, home: Path) -> None:
    """The micro model has fewer calibration tokens than it may be rounded with."""
    files = tree(home / "out")
    whole = result(run, *PRUNED)["whole"]
    assert whole.keys() == NAMES
    assert tree(home / "out") == files  # nothing is made or measured again
    assert not list((home / "out").glob(".seap-export-unfinished-*"))
    kept = {path.name for path in (home / "out").iterdir() if path.is_dir()}
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


def test_a_variant_that_it_beats_says_so_everywhere(run: Run, once: tuple[Path, Outcome], home: Path) -> None:
    """In fp32 a variant is larger than the whole model in 4 bits; without a clock, the rest is certain."""
    outcome = once[1]
    (warning,) = [line for line in outcome.err.splitlines() if "beaten" in line]
    assert "a-0.4 is beaten by the whole model in int8" in warning
    assert "seap-export export m --task a=a.jsonl --ratio 0 --precision int8 --out out-a-int8" in warning
    assert [line for line in outcome.out.splitlines() if line.startswith("a-whole-int8 ")]
    report = read_json(home / "out" / "validation.json")
    Draft202012Validator(schema()).validate(report)
    assert report["variants"]["a-0.4"]["beaten_by"] == "a-whole-int8"
    assert report["whole"].keys() == NAMES
    page = (home / "out" / "validation.html").read_text("utf-8")
    header = page[page.index("<header") : page.index("</header>")]
    assert "is beaten by the whole model in int8" in header
    assert result(run, *PRUNED)["variants"]["a-0.4"]["beaten_by"] == "a-whole-int8"
    assert "The whole model, merely rounded" in (home / "out" / "a-0.4" / "hf" / "README.md").read_text("utf-8")


def test_the_same_file_is_recommended_everywhere(run: Run, once: tuple[Path, Outcome], home: Path) -> None:
    values = result(run, *PRUNED)["recommended"]["a"]
    assert values["file"] == "a-whole-int4"
    outcome = once[1]
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("  a: Ship the whole model in int4 ")]
    assert line.removeprefix("  a: ") == values["words"].replace("±", "+-")
    assert f"It is in {Path('out/a-whole-int4')}\n" in outcome.out
    table = outcome.out.partition("\n\n")[0]
    assert re.search(r"^a-0.4/onnx fp32 .* beaten ", table, re.MULTILINE)
    assert re.search(r"^a-whole-int4 .* ship ", table, re.MULTILINE)
    report = read_json(home / "out" / "validation.json")
    assert report["recommended"] == {"a": values}
    for shown in ("validation.html", "a-0.4/hf/README.md"):
        assert values["words"] in (home / "out" / shown).read_text("utf-8")
    judged = run("validate", "out", "--dense", "m", "--max-kl", "99", "--json")
    limited = json.loads(judged.out)["recommended"]["a"]
    assert (limited["rule"], limited["limits"]["max_kl"]) == ("limits", 99)
    said = run("validate", "out").out
    assert values["words"].replace("±", "+-") in said
    assert f"It is in {Path('out/a-whole-int4')}\n" in said
    assert run("generate", "out/a-whole-int4", "the cat").err == ""
    (home / "out" / "a-whole-int4" / "genai_config.json").unlink()
    run("validate", "out", "--check", "integrity", "--quiet").refused(7, "genai_config.json")


def test_a_variant_of_ratio_0_stands_for_the_whole_model(run: Run, work: Path) -> None:
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
