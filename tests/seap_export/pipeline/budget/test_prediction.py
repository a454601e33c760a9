"""Sizes, times and the KL of candidates: predicted, corrected by what was measured, and written to a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.estimates import kl_estimate
from support.product import (
    Candidate,
    CandidateFigures,
    FirstToken,
    Guess,
    Interval,
    OnnxFormat,
    Point,
    PromptTime,
    Targets,
)

from seap_export.errors import UsageError
from seap_export.pipeline.budget.curve import KlCurve
from seap_export.pipeline.targets.frontier import (
    FRONTIER,
    Frontier,
    frontier_json,
    known_figures,
    read_frontier,
    write_frontier,
)
from seap_export.pipeline.targets.guess import USUAL
from validation.reports import schema

#: A bit less costs four times as much, and 0.2 of the ratio four times as much as 0.1.
GUESS = Guess(((2.5, 0.64), (4.5, 0.04)), ((0.1, 0.02), (0.2, 0.08)))
INT4, MIXED = Candidate(0.0, OnnxFormat("int4")), Candidate(0.0, OnnxFormat("mixed-3.5"))


def point(candidate: Candidate, kl: float, lost: float = 0.0) -> Point:
    return Point(candidate, CandidateFigures(50, kl_estimate(kl), 0.9, 7.0, lost_kl=lost), "key", 50, 2.0)


def test_what_rounding_and_pruning_cost_adds_up_and_is_corrected_by_what_was_measured_around() -> None:
    pruned = replace(MIXED, ratio=0.2)
    guessed = KlCurve([], GUESS)
    assert (guessed.at(MIXED), guessed.at(pruned)) == pytest.approx((0.16, 0.24))
    assert guessed.least(pruned) == pytest.approx(0.16 + 0.08 / 1.35)
    curve = KlCurve([point(INT4, 0.06), point(pruned, 0.24)], GUESS)  # half as much again, and as guessed
    assert curve.at(MIXED) == pytest.approx(1.5 * 0.16)
    assert curve.at(pruned) == pytest.approx(0.24)
    assert curve.at(replace(MIXED, ratio=0.1)) == pytest.approx(1.5**0.5 * 0.18)
    assert curve.at(replace(MIXED, ratio=0.4)) == pytest.approx(0.48)
    other = KlCurve([point(replace(INT4, vocabulary="auto"), 0.06), point(replace(INT4, ratio=0.2), 9.0)], GUESS)
    assert other.at(MIXED) == pytest.approx(0.16)  # they tell nothing of it


def test_what_dropped_tokens_lose_does_not_grow_with_the_rest() -> None:
    curve = KlCurve([point(INT4, 0.5 + 0.06, lost=0.5)], GUESS)
    assert curve.at(replace(MIXED, ratio=0.2)) == pytest.approx(0.5 + 1.5 * 0.24)
    of_int8 = KlCurve([point(Candidate(0.0, OnnxFormat("int8")), 0.501, lost=0.5)], GUESS)
    assert of_int8.at(MIXED) == pytest.approx(0.5 + 0.16)


def test_the_interval_is_about_what_is_not_measured() -> None:
    """If pruning costs less than guessed, what was measured says that rounding costs more."""
    measured = replace(MIXED, ratio=0.1)
    curve = KlCurve([point(measured, 0.18)], GUESS)
    assert curve.least(measured) == pytest.approx(curve.at(measured))
    assert curve.least(replace(MIXED, ratio=0.2)) == pytest.approx(0.18 * (0.16 + 0.08 / 1.35) / (0.16 + 0.02 / 1.35))
    assert curve.least(MIXED) == pytest.approx(0.18 * 0.16 / (0.16 + 0.02 * 1.35))


def test_its_forms() -> None:
    texts = ("512:250ms", "512:0.25s", "1:2x", " 128:.5x ")
    expected = [FirstToken(512, ms=250.0), FirstToken(512, ms=250.0), FirstToken(1, speedup=2.0)]
    assert [FirstToken.parse(text) for text in texts] == [*expected, FirstToken(128, speedup=0.5)]


@pytest.mark.parametrize("text", ["250ms", "512", "512:250", "0:250ms", "512:0x", "-1:2x"])
def test_what_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"target_first_token.*512:250ms.*512:2x"):
        FirstToken.parse(text)


@pytest.mark.parametrize("given", [{"size": 0}, {"decode_speedup": 0.0}, {"max_kl": -1.0}, {"max_kl": float("nan")}])
def test_targets_out_of_range_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="out of range"):
        Targets(**given)


def test_the_margin_is_how_much_slower_it_might_be() -> None:
    prompt = PromptTime(200.0, 3.0, Interval(190.0, 260.0), Interval(2.5, 3.5))
    assert FirstToken(512, ms=250.0).margin(prompt) == 1.25
    assert FirstToken(512, speedup=2.0).margin(prompt) == 1.5
    assert not FirstToken(512, ms=250.0).surely(prompt)
    assert FirstToken(512, speedup=2.5).surely(prompt)
    assert FirstToken(512, ms=200.0).surely(PromptTime(200.0, 1.0))


OTHER_GUESS = Guess(((2.0, 0.64), (3.0, 0.16), (5.0, 0.01)), ((0.1, 0.02), (0.2, 0.08)))


def test_guesses_are_exponential_in_bits_and_a_power_of_the_ratio() -> None:
    """Between and beyond what is known."""
    bits, ratios = [1.0, 2.0, 2.5, 3.0, 4.0, 7.0], [0.0, 0.05, 0.1, 0.2, 0.4]
    assert [OTHER_GUESS.of_rounding(each) for each in bits] == pytest.approx([2.56, 0.64, 0.32, 0.16, 0.04, 0.000625])
    assert [OTHER_GUESS.of_pruning(each) for each in ratios] == pytest.approx([0.0, 0.005, 0.02, 0.08, 0.32])
    assert [USUAL.of_pruning(each) for each in (0.125, 0.5)] == pytest.approx([0.05, 0.4])
    assert Guess.read(OTHER_GUESS.to_json()) == OTHER_GUESS
    for values in ({"rounded": [[2.0, 0.1]], "pruned": [[0.1, 0.1]]}, {"rounded": [[2, 1], [3, 1]], "pruned": []}):
        with pytest.raises(ValueError, match="guess"):
            Guess.read(values)


def measured(precision: str, ratio: float, size: int, kl: float, key: str | None = "k") -> Point:
    figures = CandidateFigures(size, kl_estimate(kl), 0.9, 7.5, lost_kl=kl / 2)
    return Point(Candidate(ratio, OnnxFormat(precision)), figures, key, size + 1, 2.0)


POINTS = (
    measured("int8", 0.0, 150, 0.01, "one"),
    measured("int4", 0.0, 90, 0.4, "two"),
    measured("int8", 0.5, 95, 0.35, "three"),
    measured("int4", 0.1, 88, 0.35, "four"),
    measured("fp32", 0.0, 500, 0.0, None),
)


def values() -> dict[str, Any]:
    return frontier_json(Targets(size=100), "onnx fp32", {"a": Frontier(POINTS, POINTS[3].candidate)})


def test_points_are_sorted_and_say_whether_they_are_beaten() -> None:
    rows = values()["tasks"]["a"]["points"]
    assert [row["bytes"] for row in rows] == [88, 90, 95, 150, 500]
    assert [row["beaten"] for row in rows] == [False, True, True, False, False]
    assert [row["variant"] for row in rows if row["chosen"]] == ["a-0.1"]
    assert rows[0]["kl_difference"] is None
    assert [row["kl_difference"] for row in rows[1:]] == pytest.approx([0.05, 0.0, -0.34, -0.35])


def test_equal_points_do_not_beat_each_other() -> None:
    assert not POINTS[0].beats(POINTS[0])
    assert POINTS[3].beats(POINTS[2])  # smaller and as near
    assert measured("int8", 0.0, 150, 0.009).beats(POINTS[0])  # as small and nearer
    assert not POINTS[2].beats(POINTS[0])


def test_the_file_is_read_as_it_was_written_and_follows_the_schema(tmp_path: Path) -> None:
    write_frontier(values(), tmp_path)
    assert read_frontier(tmp_path) == values()
    Draft202012Validator({"$ref": "#/$defs/frontier", "$defs": schema()["$defs"]}).validate(values())
    assert known_figures(tmp_path) == {
        measured.key: measured.figures for measured in POINTS if measured.key is not None
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.update(schema="x"),
        lambda values: values["tasks"]["a"]["points"][0].pop("bytes"),
        lambda values: values["tasks"]["a"]["points"][0].update(mean_kl_nats="0.1"),
        lambda values: values.pop("speedups_over"),
    ],
)
def test_a_file_of_another_form_counts_as_missing(tmp_path: Path, change: Any) -> None:
    changed = values()
    change(changed)
    (tmp_path / FRONTIER).write_text(json.dumps(changed), "utf-8")
    assert read_frontier(tmp_path) is None
    assert known_figures(tmp_path) == {}
