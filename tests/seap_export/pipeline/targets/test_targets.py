"""Targets, what is guessed and measured of candidates, and the file that says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.estimates import kl_estimate
from support.product import FirstToken, Interval, OnnxFormat, PromptTime

from seap_export.errors import UsageError
from seap_export.pipeline.targets.candidate import Candidate, CandidateFigures, Point
from seap_export.pipeline.targets.frontier import (
    FRONTIER,
    Frontier,
    frontier_json,
    known_figures,
    read_frontier,
    write_frontier,
)
from seap_export.pipeline.targets.guess import USUAL, Guess
from seap_export.pipeline.targets.targets import Targets
from validation.reports import schema


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


GUESS = Guess(((2.0, 0.64), (3.0, 0.16), (5.0, 0.01)), ((0.1, 0.02), (0.2, 0.08)))


def test_guesses_are_exponential_in_bits_and_a_power_of_the_ratio() -> None:
    """Between and beyond what is known."""
    bits, ratios = [1.0, 2.0, 2.5, 3.0, 4.0, 7.0], [0.0, 0.05, 0.1, 0.2, 0.4]
    assert [GUESS.of_rounding(each) for each in bits] == pytest.approx([2.56, 0.64, 0.32, 0.16, 0.04, 0.000625])
    assert [GUESS.of_pruning(each) for each in ratios] == pytest.approx([0.0, 0.005, 0.02, 0.08, 0.32])
    assert [USUAL.of_pruning(each) for each in (0.125, 0.5)] == pytest.approx([0.05, 0.4])
    assert Guess.read(GUESS.to_json()) == GUESS
    for values in ({"rounded": [[2.0, 0.1]], "pruned": [[0.1, 0.1]]}, {"rounded": [[2, 1], [3, 1]], "pruned": []}):
        with pytest.raises(ValueError, match="guess"):
            Guess.read(values)


def point(precision: str, ratio: float, size: int, kl: float, key: str | None = "k") -> Point:
    figures = CandidateFigures(size, kl_estimate(kl), 0.9, 7.5, lost_kl=kl / 2)
    return Point(Candidate(ratio, OnnxFormat(precision)), figures, key, size + 1, 2.0)


POINTS = (
    point("int8", 0.0, 150, 0.01, "one"),
    point("int4", 0.0, 90, 0.4, "two"),
    point("int8", 0.5, 95, 0.35, "three"),
    point("int4", 0.1, 88, 0.35, "four"),
    point("fp32", 0.0, 500, 0.0, None),
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
    assert point("int8", 0.0, 150, 0.009).beats(POINTS[0])  # as small and nearer
    assert not POINTS[2].beats(POINTS[0])


def test_the_file_is_read_as_it_was_written_and_follows_the_schema(tmp_path: Path) -> None:
    write_frontier(values(), tmp_path)
    assert read_frontier(tmp_path) == values()
    Draft202012Validator({"$ref": "#/$defs/frontier", "$defs": schema()["$defs"]}).validate(values())
    assert known_figures(tmp_path) == {point.key: point.figures for point in POINTS if point.key is not None}


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
