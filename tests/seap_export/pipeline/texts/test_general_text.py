from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.estimates import kl_estimate
from support.product import CalibrationRecord, DivergenceFigures

from seap_export.common.hashing import sha256_json
from seap_export.corpus import text_digest
from seap_export.pipeline.texts.general_text import (
    GENERAL_TEXT,
    MOST_TEXTS,
    ElsewhereFigures,
    TextSet,
    elsewhere_texts,
    refuse_damaged_cell,
)
from validation.divergence.paired import Bytes, PerByte, same_cut
from validation.estimate import kl_json


def record(task: str, held_out: list[str], calibrated: tuple[str, ...] = ()) -> CalibrationRecord:
    samples = tuple({"prompt": text[:3], "completion": text[3:]} for text in held_out)
    digests = tuple(sorted(map(text_digest, held_out)))
    return CalibrationRecord(task, "m", "00", 0, 512, 100, tuple(map(text_digest, calibrated)), digests, samples)


def test_the_first_held_out_texts_of_every_task_and_the_general_text() -> None:
    numbered = [f"number {number}" for number in range(MOST_TEXTS + 3)]
    sets = elsewhere_texts([record("b", ["one text", "another"]), record("a", numbered)], None)
    assert list(sets) == ["a", "b", GENERAL_TEXT]
    assert sets["a"] == tuple(numbered[:MOST_TEXTS])
    assert sets["b"] == ("one text", "another")
    assert len(set(sets[GENERAL_TEXT])) == MOST_TEXTS


def test_what_a_task_was_calibrated_on_is_left_out(tmp_path: Path) -> None:
    """Of the other tasks, too, and a task of which nothing is left."""
    general = tmp_path / "g.jsonl"
    general.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("one", "two", "two", "three")), "utf-8")
    records = [record("a", ["held out", "shared"], ("two",)), record("b", ["x"], ("shared",)), record("c", ["one"])]
    records += [record("d", ["three"], ("x",))]
    sets = elsewhere_texts(records, general)
    assert sets == {"a": ("held out",), "c": ("one",), "d": ("three",), GENERAL_TEXT: ("one", "three")}


def cell() -> dict[str, Any]:
    texts = TextSet(("abc",), True, (replace(same_cut((1, 2, 3)), bytes=Bytes(3, 2, 2)),))
    figures = DivergenceFigures(kl_estimate(0.5), 0.9, 8.0, 4.0, per_byte=PerByte(0.1, 1.25, 0.75, 12))
    return ElsewhereFigures(texts, figures).to_json()


def test_the_figures_of_a_set() -> None:
    assert cell() == {
        "own": True, **kl_json(kl_estimate(0.5)), "bits_per_byte": 1.25, "dense_bits_per_byte": 0.75, "texts": 1,
        "tokens": 40, "bytes": 12, "sha256": sha256_json(["abc"]),
    }  # fmt: skip
    refuse_damaged_cell(cell())


@pytest.mark.parametrize("change", [{"own": 1}, {"mean_kl_nats": "0.1"}, {"texts": 1.5}, {"sha256": None}])
def test_a_changed_cell_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        refuse_damaged_cell({**cell(), **change})
