from __future__ import annotations

from typing import Any

from validation.reports import job_summary
from validation.reports.figures import main_figures
from validation.reports.markdown import markdown_table
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


def test_what_to_ship_stands_below_the_title(shipped: Report) -> None:
    text = job_summary(shipped)
    assert "\n\n**everyday**: Ship the whole model in int4 (86.4 MB, " in text
    (first,) = [row for row in _table(text) if row[0] == "the whole model in int4"]
    assert first[1:3] == ["ship", "–"]
    assert first[3] == "86.4 MB (memory about 210 MB)"


def test_recorded_speed_has_its_interval(passing: Report) -> None:
    head, _, *rows = _table(job_summary(passing))
    cells = next(dict(zip(head, row, strict=True)) for row in rows if row[0] == "everyday-0.35")
    assert (cells["Decode"], cells["Prefill"]) == ("1.25× (1.23 to 1.27)", "1.50× (1.48 to 1.52)")


def test_table_has_a_line_for_each_variant(passing: Report) -> None:
    head, rule, *rows = _table(job_summary(passing))
    assert head == ["Variant", *columns()]
    assert {len(row) for row in (rule, *rows)} == {len(head)}
    assert [row[0] for row in rows] == list(passing["variants"])
    first = dict(zip(head, rows[0], strict=True))
    shown = {
        "Variant": "arithmetic-0.2",
        "Result": "✅ passed",
        "Task": "arithmetic (reconstruct)",
        "Size": "−15.8% (454 MB instead of the whole model's 539 MB)",
        "Decode": "1.24× (1.20 to 1.29)",
        "Prefill": "1.18× (1.14 to 1.23)",
        "KL": "0.024 ± 0.004",
        "Top-1": "97.6% ± 1.2%",
        "Perplexity": "14.6 (dense 14.2)",
        "Parity": "✅ passed (max abs 1.1e-4)",
        "Removed": "20.1% (20% asked, 113 M of 135 M parameters)",
    }
    assert {column: first[column] for column in shown} == shown
    assert {rows[2][head.index(figure.head)] for figure in main_figures("faster", "worse")} == {"–"}


def test_failures_say_why_and_what_to_do(failing: Report) -> None:
    lines = job_summary(failing).splitlines()
    at = lines.index("- **arithmetic-0.5: quality** onnx: mean KL 0.3162 nats is above 0.1  ")
    assert lines[at + 1].startswith("  What to do: ")
    assert "--ratio" in lines[at + 1]
    assert sum(line.startswith("  What to do: ") for line in lines) == 7


def test_skipped_checks_and_looser_limits_are_told(passing: Report) -> None:
    text = job_summary(passing)
    assert "- general-0.5: quality was skipped: no dense model was given" in text
    assert "- general-0.5: parity: int4 max\\_abs 0.01 is looser than the default 0.001" in text


def test_what_was_too_noisy_to_tell_asks_for_a_quiet_machine(failing: Report) -> None:
    (speed,) = (check for check in failing["checks"] if check["check"] == "speed" and check["verdict"] == "failed")
    assert "close other programs" not in job_summary(failing)
    speed |= {"exit_code": 6, "verdict": "not judged"}
    assert "close other programs" in job_summary(failing)
    assert "10 checks: 6 failed, 1 not judged, 2 passed, 1 skipped." in job_summary(failing)
    assert "speed: not judged." in job_summary(failing)


def test_remarks_are_told_once(passing: Report) -> None:
    (parity,) = (c for c in passing["checks"] if (c["variant"], c["check"]) == ("general-0.5", "parity"))
    where = ["diverges first at lm_head"]
    parity |= {"verdict": "failed", "exit_code": 3, "reasons": where, "notes": where}
    assert job_summary(passing).count("diverges first at lm") == 1


def test_nothing_in_a_name_is_markup(failing: Report) -> None:
    text = job_summary(failing)
    assert "<script" not in text
    assert "\\`\\*\\_\\[x\\](y)" in text
    assert {len(row) for row in _table(text)} == {1 + len(columns())}
    assert not any(ord(letter) < 32 and letter != "\n" for letter in text)
    assert "\nsecond line" not in text


def test_long_lists_are_cut(failing: Report) -> None:
    failing["checks"][0]["reasons"] = [f"file {index} is missing" for index in range(500)]
    assert "file 9 is missing; and 490 more" in job_summary(failing)
    failing["checks"] = failing["checks"][:1] * 30
    assert "- and 20 more" in job_summary(failing).splitlines()


def test_a_variant_failed_if_one_of_its_checks_did() -> None:
    verdicts = [("a", "not judged"), ("a", "failed"), ("b", "skipped"), ("b", "passed"), (None, "not judged")]
    report = {
        "checks": [{"variant": variant, "verdict": verdict} for variant, verdict in [*verdicts, (None, "passed")]]
    }
    assert [verdict_of(report, variant) for variant in ("a", "b", "c", None)] == [
        "failed", "passed", "skipped", "not judged",
    ]  # fmt: skip


def test_a_bar_in_a_cell_begins_no_other_cell() -> None:
    assert markdown_table(["a"], [["b|c"]]).splitlines()[-1] == "| b\\|c |"
