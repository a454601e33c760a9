"""The report can be read by somebody who was not there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from validation.readiness.request import Request
from validation.readiness.run import run_steps
from validation.readiness.steps import plan_steps
from validation.readiness.tables import PAPER


def reported(request: Request) -> tuple[str, str]:
    steps = plan_steps(request)
    run_steps(steps, request, [step.name for step in steps], 60.0, lambda line: None)
    return (request.out / "report.md").read_text("utf-8"), (request.out / "table.md").read_text("utf-8")


def test_the_page_names_the_machine_and_every_step(pretended: Callable[..., Request]) -> None:
    request = pretended({"convert": 2})
    page, _ = reported(request)
    assert page.startswith("# GPU readiness: failed")
    assert "NVIDIA Pretended with 24.0 GB" in page
    assert "torch 2.13.0" in page
    for step in plan_steps(request):
        assert f"| {step.name} |" in page
        for command in step.commands:
            assert command.line in page
    assert "convert was told to fail (exit code 2)" in page


def test_links_to_logs_lead_somewhere(pretended: Callable[..., Request]) -> None:
    request = pretended({"export": 8})
    page, _ = reported(request)
    logs = re.findall(r"\((logs/[^)]+)\)", page)
    assert "logs/export.log" in logs
    assert all((request.out / log).is_file() for log in logs)


def test_tables_have_a_cell_for_each_column(pretended: Callable[..., Request]) -> None:
    page, table = reported(pretended())
    for text in (page, table):
        columns = 0
        for line in text.splitlines():
            cells = len(re.findall(r"(?<!\\)\|", line))
            assert not line.startswith("|") or columns in (0, cells), line
            columns = cells if line.startswith("|") else 0


def test_the_table_holds_every_timed_model(pretended: Callable[..., Request]) -> None:
    request = pretended()
    _, table = reported(request)
    assert "NVIDIA Pretended" in table
    rows = json.loads((request.out / "table.json").read_text("utf-8"))["rows"]
    assert len(rows) == 3 * len(request.precisions) + 2 * 2
    assert {row["variant"] for row in rows} == {
        "dense", "arithmetic-0.2", "arithmetic-0.5", "random-0.2", "random-0.5"
    }  # fmt: skip
    assert "1.25 (1.25 to 1.25)" in table
    assert f"SEAP-gen {PAPER[0.5]['SEAP-gen']:.2f}" in table


def test_the_cpu_s_report_is_called_a_rehearsal(pretended: Callable[..., Request]) -> None:
    page, table = reported(pretended(provider="cpu"))
    assert page.startswith("# Rehearsal")
    assert "NVIDIA" not in table
