from __future__ import annotations

from typing import Any

from validation.reports import job_summary
from validation.reports.variants import head as columns
from validation.reports.variants import verdict_of

Report = dict[str, Any]


def _table(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]


def test_verdict_comes_first(passing: Report, failing: Report) -> None:
    lines = job_summary(passing).splitlines()
    assert lines[0] == "## ✅ demo-output"
    verified = "Files verified; quality: within its limit; speed: within its limit."
    assert lines[2] == f"{verified} 11 checks: 9 passed, 2 skipped. Exit code 0: passed."
    assert job_summary(failing).startswith("## ❌ Failed: out a&#124;b ")
    assert "10 checks: 7 failed, 2 passed, 1 skipped. Exit code 7: an artifact is damaged" in job_summary(failing)


def test_nothing_in_a_name_is_markup(failing: Report) -> None:
    text = job_summary(failing)
    assert "<script" not in text
    assert "\\`\\*\\_\\[x\\](y)" in text
    assert {len(row) for row in _table(text)} == {1 + len(columns())}
    assert not any(ord(letter) < 32 and letter != "\n" for letter in text)
    assert "\nsecond line" not in text


def test_a_variant_failed_if_one_of_its_checks_did() -> None:
    verdicts = [("a", "not judged"), ("a", "failed"), ("b", "skipped"), ("b", "passed"), (None, "not judged")]
    report = {
        "checks": [{"variant": variant, "verdict": verdict} for variant, verdict in [*verdicts, (None, "passed")]]
    }
    assert [verdict_of(report, variant) for variant in ("a", "b", "c", None)] == [
        "failed", "passed", "skipped", "not judged",
    ]  # fmt: skip
