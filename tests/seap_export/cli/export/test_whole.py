"""What an export measures: its variants, the whole model, merely rounded, and other texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.conversations import write_records
from support.corpora import WORDS
from support.estimates import without_texts
from support.exports import Outcome, Run, times_of_writing, tree
from support.product import GENERAL_TEXT, MOST_TEXTS, with_error

from seap_export.common.json_file import read_json
from validation.reports import schema
from validation.reports.speedups import interval_in_words

EXPORT = ("export", "m", "--task", "a=a.jsonl", "--precision", "fp32", "--out", "out", "--quality")
PRUNED = (*EXPORT, "--ratio", "0.4")
NAMES = {"a-whole-int8", "a-whole-int4"}
COLUMNS = ["a", "b", GENERAL_TEXT]


@pytest.fixture(scope="module")
def said(place: Path, done_in: Callable[..., Outcome]) -> Outcome:
    """What `PRUNED` has said."""
    return done_in(place, *PRUNED)


@pytest.fixture(scope="module")
def once(place: Path, said: Outcome) -> Path:
    """A folder with `PRUNED` in `out`; not to be changed."""
    return place


def figures(row: dict[str, Any]) -> dict[str, Any]:
    (divergence,) = row["quality"]["divergence"].values()
    return {key: value for key, value in divergence.items() if not isinstance(value, list)}


def test_it_is_what_an_export_of_ratio_0_makes(result: Callable[..., Any], home: Path) -> None:
    """The micro model has fewer calibration tokens than it may be rounded with."""
    files = tree(home / "out")
    whole = result(*PRUNED)["whole"]
    assert whole.keys() == NAMES
    assert tree(home / "out") == files  # nothing is made or measured again
    assert not list((home / "out").glob(".seap-export-unfinished-*"))
    kept = {path.name for path in (home / "out").iterdir() if path.is_dir()}
    assert kept == {"a-0.4", "a-whole-int4", "calibration", "ranking"}
    assert {name: row["folder"] for name, row in whole.items()} == {
        "a-whole-int8": None,
        "a-whole-int4": "a-whole-int4",
    }
    command = whole["a-whole-int4"]["command"].split()[1:]
    assert command[-2:] == ["--out", "out-a-int4"]
    made, row = result(*command, "--quality")["variants"]["a-0"], whole["a-whole-int4"]
    assert (row["bytes"], row["refusal"]) == (made["bytes"]["onnx"], "")
    measured = {key: value for key, value in made["quality"].items() if key in figures(row)}
    assert figures(row) == pytest.approx(measured, rel=1e-6)


def test_quality_is_what_evaluate_measures_and_speed_comes(run: Run, result: Callable[..., Any], home: Path) -> None:
    recorded, variant = read_json(home / "out/a-0.4/quality.json"), "out/a-0.4"
    evaluated = result("evaluate", variant, "--dense", "m", "--runtime", "onnxruntime")["divergence"]["onnx"]
    assert without_texts(recorded["divergence"]["onnx"]) == pytest.approx(without_texts(evaluated), rel=1e-6)
    assert recorded["texts"]["disjoint"] is True
    assert set(recorded["sample"]) == {"prompt", "dense", "variant"}
    measured = read_json(home / "out/manifest.json")["variants"]["a-0.4"]["quality"]
    assert (measured.pop("folder"), measured.pop("runtime")) == ("onnx", "onnxruntime")
    assert measured.pop("elsewhere") == recorded["elsewhere"]
    assert measured.items() <= evaluated.items()
    assert result(*PRUNED)["variants"]["a-0.4"]["speed"] is None
    assert result(*PRUNED, "--speed")["variants"]["a-0.4"]["speed"]
    before, times = read_json(home / "out/performance.json"), times_of_writing(home / "out/a-0.4")
    again = result(*PRUNED, "--speed")["variants"]["a-0.4"]
    assert read_json(home / "out/performance.json")["speed"] == before["speed"]
    assert times_of_writing(home / "out/a-0.4") == times
    report = read_json(home / "out/validation.json")
    Draft202012Validator(schema()).validate(report)
    (cell,) = report["variants"]["a-0.4"]["speed"]["variant"]
    assert again["speed"] == report["variants"]["a-0.4"]["speed"]
    assert cell["decode_share_of_ideal"] == pytest.approx(cell["decode_speedup"] / cell["decode_ideal_speedup"])
    assert "of the ideal" in (home / "out/validation.html").read_text("utf-8")
    kl = with_error(measured["mean_kl_nats"], measured["mean_kl_nats_stderr"]).replace("±", "+-")
    assert [kl in shown.out for shown in (run("inspect", "out"), run("inspect", variant), run(*PRUNED))] == [True] * 3
    assert interval_in_words(cell["decode_speedup_low"], cell["decode_speedup_high"]) in run("inspect", "out").out
    performance = home / "out/performance.json"  # which has no hash
    performance.write_text(performance.read_text("utf-8").replace("share_of_ideal", "share"), "utf-8")
    assert run("inspect", "out").code == 0
    assert result("validate", "out", "--check", "integrity")["variants"]["a-0.4"]["speed"] is None


def test_a_variant_that_it_beats_says_so_everywhere_and_the_same_file_is_recommended(
    run: Run, result: Callable[..., Any], said: Outcome, home: Path
) -> None:
    """In fp32 a variant is larger than the whole model in 4 bits; without a clock, the rest is certain."""
    (warning,) = [line for line in said.err.splitlines() if "beaten" in line]
    assert "a-0.4 is beaten by the whole model in int8" in warning
    assert "seap-export export m --task a=a.jsonl --ratio 0 --precision int8 --out out-a-int8" in warning
    assert [line for line in said.out.splitlines() if line.startswith("a-whole-int8 ")]
    report = read_json(home / "out" / "validation.json")
    Draft202012Validator(schema()).validate(report)
    assert report["variants"]["a-0.4"]["beaten_by"] == "a-whole-int8"
    assert report["whole"].keys() == NAMES
    page = (home / "out" / "validation.html").read_text("utf-8")
    assert "is beaten by the whole model in int8" in page.partition("</header>")[0]
    assert "The whole model, merely rounded" in (home / "out" / "a-0.4" / "hf" / "README.md").read_text("utf-8")
    values = report["recommended"]["a"]
    assert values["file"] == "a-whole-int4"
    assert values["words"].startswith("Ship the whole model in int4 ")
    for shown in (said.out, run("validate", "out").out):
        assert f"  a: {values['words'].replace('±', '+-')}\n" in shown
        assert f"It is in {Path('out/a-whole-int4')}\n" in shown
    table = said.out.partition("\n\n")[0]
    assert re.search(r"^a-0.4/onnx fp32 .* beaten ", table, re.MULTILINE)
    assert re.search(r"^a-whole-int4 .* ship ", table, re.MULTILINE)
    again = result(*PRUNED)
    assert (again["variants"]["a-0.4"]["beaten_by"], again["recommended"]) == ("a-whole-int8", {"a": values})
    for shown in ("validation.html", "a-0.4/hf/README.md"):
        assert values["words"] in (home / "out" / shown).read_text("utf-8")
    limited = result("validate", "out", "--dense", "m", "--max-kl", "99")["recommended"]["a"]
    assert (limited["rule"], limited["limits"]["max_kl"]) == ("limits", 99)
    assert run("generate", "out/a-whole-int4", "the cat").err == ""
    (home / "out" / "a-whole-int4" / "genai_config.json").unlink()
    run("validate", "out", "--check", "integrity", "--quiet").refused(7, "genai_config.json")


def test_texts_that_are_too_short_are_not_tried_again(run: Run, work: Path) -> None:
    write_records(work / "a.jsonl", [{"text": word} for word in dict.fromkeys(WORDS)])
    command = [*PRUNED, "--set", "held_out=4"]
    outcome = run(*command)
    assert outcome.code == 0, outcome.err
    assert "too short to measure quality" in outcome.err
    report = read_json(work / "out" / "validation.json")
    assert {name: row["quality"] for name, row in report["whole"].items()} == dict.fromkeys(NAMES)
    assert "rounding" not in run(*command).err


def _cells(variant: str) -> dict[str, Any]:
    cells: dict[str, Any] = read_json(Path("out", variant, "quality.json"))["elsewhere"]["onnx"]
    return cells


def _held_out(task: str) -> list[str]:
    samples = read_json(Path("out", "calibration", task, "calibration.json"))["held_out"]
    return [sample["prompt"] + sample["completion"] for sample in samples]


def test_every_variant_is_measured_on_every_text(run: Run, result: Callable[..., Any], home: Path) -> None:
    """A task that is added gets a column; what an export does not name keeps its figures until it is named."""
    words = (*EXPORT[:2], *EXPORT[4:], "--ratio", "0.4", "--set", "router=false")
    assert list(_cells("a-0.4")) == ["a", GENERAL_TEXT]
    assert run(*words, "--task", "b=b.jsonl").code == 0
    assert [list(_cells(name)) for name in ("b-0.4", "a-0.4")] == [COLUMNS, ["a", GENERAL_TEXT]]
    kept = Path("out/b-0.4/quality.json").read_bytes()
    assert run(*words, "--task", "a=a.jsonl", "--task", "b=b.jsonl").code == 0
    assert Path("out/b-0.4/quality.json").read_bytes() == kept
    assert run("validate", "out", "-q").code == 0
    one, other = _cells("a-0.4"), _cells("b-0.4")
    for task, cells in (("a", one), ("b", other)):
        assert {name: cell["own"] for name, cell in cells.items()} == {name: name == task for name in COLUMNS}
        assert [cell["texts"] for cell in cells.values()] == [MOST_TEXTS] * 3
    for name in COLUMNS:  # the same texts, and so the same dense model
        for key in ("sha256", "tokens", "bytes", "dense_bits_per_byte"):
            assert one[name][key] == other[name][key]
        assert one[name]["mean_kl_nats"] != other[name]["mean_kl_nats"]
    write_records(home / "few.jsonl", [{"text": text} for text in _held_out("b")[:MOST_TEXTS]])
    evaluate = ("evaluate", "out/a-0.4", "--dense", "m", "--runtime", "onnxruntime", "--text", "b=few.jsonl")
    divergence = result(*evaluate)["divergence"]["onnx"]
    for key in ("mean_kl_nats", "tokens", "bits_per_byte", "dense_bits_per_byte", "bytes"):
        assert one["b"][key] == pytest.approx(divergence[key], rel=1e-6)
