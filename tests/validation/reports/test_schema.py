from __future__ import annotations

import json
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.exports import run_here

from validation.reports import schema

Report = dict[str, Any]
#: Parts of a variant's report.
EMBEDDED: tuple[tuple[str | int, ...], ...] = (
    (), ("parity", "onnx"), ("parity", "onnx", "cases", 0), ("quality",), ("quality", "sample"),
    ("quality", "divergence", "onnx"), ("speed",), ("speed", "dense", 0), ("speed", "variant", 0),
)  # fmt: skip


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


@pytest.mark.full
def test_samples_have_no_key_that_a_real_report_lacks(passing: Report, inputs: Path, tmp_path: Path) -> None:
    """The schema allows any further key in what is embedded, which the samples could keep for ever."""
    words = ("--task", f"a={inputs / 'a.jsonl'}", "--ratio", 0.2, "--quality", "--speed", "--out", tmp_path / "out")
    assert run_here("export", inputs / "m", *words, "-q").code == 0
    real = json.loads((tmp_path / "out" / "validation.json").read_text("utf-8"))["variants"]["a-0.2"]
    sample = passing["variants"]["everyday-0.35"]
    for place in EMBEDDED:
        made, written = (reduce(getitem, place, report) for report in (sample, real))
        assert set(made) - set(written) == set(), place


def test_samples_are_reports(samples: dict[str, Report], validator: jsonschema.Draft202012Validator) -> None:
    for sample in samples.values():
        validator.validate(sample)


A = "arithmetic-0.2"
WRONG: dict[str, Callable[[Report], object]] = {
    "key too many": lambda r: r.update(extra=1),
    "no verdict": lambda r: r.update(verdict="skipped"),
    "passed with a failed check": lambda r: r["checks"][0].update(verdict="failed", exit_code=7, reasons=["broken"]),
    "failed without a failure": lambda r: r.update(verdict="failed", exit_code=3, failure=""),
    "failed with exit code 0": lambda r: r.update(verdict="failed", exit_code=0, failure="something"),
    "passed check with a reason": lambda r: r["checks"][0].update(reasons=["why"]),
    "skipped check without a note": lambda r: r["checks"][-1].update(notes=[]),
    "variant without speed": lambda r: r["variants"][A].pop("speed"),
    "more kept than there was": lambda r: r["variants"][A]["layers"][0].update(kept=1.5),
    "case without a stage": lambda r: r["variants"][A]["parity"]["onnx"]["cases"][0].pop("stage"),
}


@pytest.mark.parametrize("spoil", WRONG.values(), ids=WRONG.keys())
def test_wrong_reports_are_refused(
    spoil: Callable[[Report], object], passing: Report, validator: jsonschema.Draft202012Validator
) -> None:
    spoil(passing)
    assert not validator.is_valid(passing)
