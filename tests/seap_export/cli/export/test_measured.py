"""What an export measures beside the dense model: quality, speed, and what its own steps cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from support.estimates import without_texts
from support.exports import Outcome, Run, times_of_writing
from support.product import with_error

from seap_export.common.json_file import read_json
from validation.reports import schema
from validation.reports.speedups import interval_in_words

EXPORT = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.4", "--out", "out", "--quality", "--speed")


@pytest.fixture(scope="module")
def once(place: Path, done_in: Callable[..., Outcome]) -> Path:
    """A folder with `EXPORT` in `out`; not to be changed."""
    done_in(place, *EXPORT)
    return place


@pytest.fixture
def measured(home: Path) -> Path:
    return home / "out"


def test_quality_is_what_evaluate_measures_and_shown_everywhere(
    run: Run, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = run("evaluate", measured / "a-0.4", "--dense", "m", "--runtime", "onnxruntime", "--json")
    evaluated = json.loads(outcome.out)["divergence"]["onnx"]
    recorded = read_json(measured / "a-0.4" / "quality.json")
    assert without_texts(recorded["divergence"]["onnx"]) == pytest.approx(without_texts(evaluated), rel=1e-6)
    assert recorded["texts"]["disjoint"] is True
    assert set(recorded["sample"]) == {"prompt", "dense", "variant"}
    figures = read_json(measured / "manifest.json")["variants"]["a-0.4"]["quality"]
    assert (figures.pop("folder"), figures.pop("runtime")) == ("onnx", "onnxruntime")
    assert figures.pop("elsewhere") == recorded["elsewhere"]
    assert figures.items() <= evaluated.items()
    report = read_json(measured / "validation.json")
    Draft202012Validator(schema()).validate(report)
    variant = report["variants"]["a-0.4"]
    (cell,) = variant["speed"]["variant"]
    assert cell["decode_share_of_ideal"] == pytest.approx(cell["decode_speedup"] / cell["decode_ideal_speedup"])
    assert "of the ideal" in (measured / "validation.html").read_text("utf-8")
    kl = with_error(figures["mean_kl_nats"], figures["mean_kl_nats_stderr"]).replace("±", "+-")
    for shown in (run("inspect", measured), run("inspect", measured / "a-0.4"), run(*EXPORT)):
        assert kl in shown.out
    assert interval_in_words(cell["decode_speedup_low"], cell["decode_speedup_high"]) in run("inspect", measured).out
    as_json = json.loads(run(*EXPORT, "--json").out)["variants"]["a-0.4"]
    assert as_json["speed"] == variant["speed"]
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(*EXPORT).out.splitlines()
    assert [line for line in lines if len(line) > 80 and "seap-export " not in line] == []


def test_a_second_export_measures_nothing_again(run: Run, measured: Path) -> None:
    before, times = read_json(measured / "performance.json"), times_of_writing(measured / "a-0.4")
    assert measured / "a-0.4" / "quality.json" in times
    assert run(*EXPORT).code == 0
    assert times_of_writing(measured / "a-0.4") == times
    after = read_json(measured / "performance.json")
    assert after["speed"] == before["speed"]
    assert after["steps"]["a-0.4/hf"] == before["steps"]["a-0.4/hf"]


def test_measurements_can_be_left_out_and_made_up_for(run: Run, done: Path) -> None:
    assert not (done / "a-0.4" / "quality.json").exists()
    variant = read_json(done / "validation.json")["variants"]["a-0.4"]
    assert (variant["quality"], variant["speed"]) == (None, None)
    assert read_json(done / "manifest.json")["variants"]["a-0.4"]["quality"] is None
    assert "dense" not in read_json(done / "performance.json")["steps"]
    assert run(*EXPORT, "--no-speed").code == 0
    assert (done / "a-0.4" / "quality.json").is_file()


def test_figures_that_were_changed_or_are_gone(run: Run, measured: Path) -> None:
    """quality.json has a hash: changed it is damage, gone it is made again. performance.json has none."""
    report = measured / "a-0.4" / "quality.json"
    whole = report.read_bytes()
    report.write_text("{}", "utf-8")
    outcome = run(*EXPORT)
    assert outcome.code == 7
    assert "quality.json" in outcome.err.splitlines()[-1]
    assert run("inspect", measured / "a-0.4").code == 7
    report.unlink()
    assert run(*EXPORT).code == 0
    assert report.read_bytes() == whole

    (measured / "performance.json").write_text(
        (measured / "performance.json").read_text("utf-8").replace("share_of_ideal", "share"), "utf-8"
    )
    outcome = run("inspect", measured)
    assert outcome.code == 0, outcome.err
    variant = json.loads(run("validate", measured, "--check", "integrity", "--json").out)["variants"]["a-0.4"]
    assert variant["speed"] is None
