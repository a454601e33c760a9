"""The report of a run: report.md and report.json, and the table for docs/measurements.md."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seap_export import __version__
from seap_export.common.json_file import json_text
from validation.readiness.machine import read_json
from validation.readiness.processes import words_of_exit
from validation.readiness.request import Request
from validation.readiness.step import Outcome, Step
from validation.readiness.tables import (
    PARITY_HEADER,
    PROFILE_HEADER,
    SPEED_HEADER,
    parity_cells,
    parity_rows,
    profile_rows,
    speed_cells,
    speed_rows,
)
from validation.reports.markdown import markdown_table

SCHEMA = "seap-export/readiness/1"


def write_report(steps: Sequence[Step], outcomes: Mapping[str, Outcome], request: Request) -> None:
    """Writes report.json, report.md, table.json and table.md into the folder of the report."""
    machine, speed = _machine(request), speed_rows(request)
    report = {
        "schema": SCHEMA,
        "verdict": _verdict(steps, outcomes),
        "provider": request.provider,
        "machine": machine,
        "steps": {
            step.name: {
                "purpose": step.purpose,
                "commands": [command.line for command in step.commands],
                **outcomes[step.name].to_json(),
            }
            for step in steps
            if step.name in outcomes
        },
        "not_run": [step.name for step in steps if step.name not in outcomes],
        "parity": parity_rows(request),
        "genai": read_json(request.result("genai")),
        "profile": read_json(request.result("profile")),
        "speed": speed,
    }
    _replace(request.out / "report.json", json_text(report))
    _replace(request.out / "report.md", "\n".join(_page(steps, outcomes, request, report)))
    table = {"machine": machine, "setting": _setting(request), "rows": speed}
    _replace(request.out / "table.json", json_text(table))
    _replace(request.out / "table.md", "\n".join(_table(request, report)))


def _replace(path: Path, text: str) -> None:
    """Writes a whole file or nothing, so that a crash leaves the last report."""
    scratch = path.with_name(f"{path.name}.new")
    scratch.write_text(text, "utf-8", newline="\n")
    os.replace(scratch, path)


def _verdict(steps: Sequence[Step], outcomes: Mapping[str, Outcome]) -> str:
    verdicts = {outcome.verdict for outcome in outcomes.values()}
    if verdicts & {"failed", "blocked"}:
        return "failed"
    if "interrupted" in verdicts:
        return "interrupted"
    if len(outcomes) < len(steps):
        return "incomplete"
    return "passed, with steps skipped" if "skipped" in verdicts else "passed"


def _machine(request: Request) -> dict[str, Any]:
    doctor = read_json(request.result("doctor"))
    described = {name: doctor.get(name) for name in ("machine", "driver", "onnxruntime", "packages", "warnings")}
    card = request.out / "results" / "nvidia-smi.csv"
    lines = card.read_text("utf-8", "replace").splitlines() if card.is_file() else []
    return {"seap-export": __version__, **described, "nvidia-smi": lines}


def _setting(request: Request) -> dict[str, Any]:
    return {"provider": request.provider, "runs": request.runs, "steps": request.steps, "large": vars(request.large)}


def _page(
    steps: Sequence[Step], outcomes: Mapping[str, Outcome], request: Request, report: Mapping[str, Any]
) -> Iterator[str]:
    yield f"# {_title(request)}: {report['verdict']}\n"
    yield from _environment(report["machine"])
    yield "## Steps\n"
    rows = [(step.name, *_cells(outcomes.get(step.name), request, step.name), step.purpose) for step in steps]
    yield markdown_table(("step", "verdict", "time", "why", "log", "what it shows"), rows) + "\n"
    yield "## Parity with torch\n"
    yield "One pruned model, in every form. The last column counts nodes that ran on another execution provider.\n"
    yield markdown_table(PARITY_HEADER, map(parity_cells, report["parity"])) + "\n"
    yield from _reasons(report["parity"])
    yield "## Speed\n"
    yield from _table(request, report)
    yield "## ONNX Runtime GenAI\n"
    yield from _genai(report["genai"])
    yield "## A decode step\n"
    yield from _profile(request, report["profile"])
    yield "## Commands\n"
    for step in steps:
        yield f"### {step.name}\n"
        done = [command.exit_code for command in outcomes[step.name].done] if step.name in outcomes else []
        for index, command in enumerate(step.commands):
            yield f"    {command.line}"
            yield f"    # {words_of_exit(done[index]) if index < len(done) else 'not run'}"
        yield ""


def _title(request: Request) -> str:
    return "GPU readiness" if request.provider == "cuda" else "Rehearsal of the GPU run on the CPU"


def _environment(machine: Mapping[str, Any]) -> Iterator[str]:
    host, driver, runtime = (machine.get(name) or {} for name in ("machine", "driver", "onnxruntime"))
    gpus = [f"{gpu['name']} with {gpu['memory_bytes'] / 1e9:.1f} GB" for gpu in driver.get("gpus") or ()]
    versions = {"seap-export": machine["seap-export"], **(runtime.get("distributions") or {})}
    versions |= {name: version for name, version in (machine.get("packages") or {}).items() if version}
    yield f"- GPU: {', '.join(gpus) or driver.get('reason') or 'unknown, since doctor left no report'}"
    needed, given = runtime.get("cuda_version"), driver.get("cuda_version")
    yield f"- CUDA: the driver runs {given}, ONNX Runtime was built for {needed}"
    yield from (f"- nvidia-smi: {line}" for line in machine["nvidia-smi"])
    cores = f"{host.get('processor')}, {host.get('cores')} cores"
    yield f"- host: {cores}, {host.get('system')}, Python {host.get('python')}"
    yield f"- packages: {', '.join(f'{name} {version}' for name, version in versions.items())}"
    yield from (f"- warning: {line}" for line in machine.get("warnings") or ())
    yield ""


def _cells(outcome: Outcome | None, request: Request, name: str) -> tuple[str, ...]:
    if outcome is None:
        return ("not run", "", "", "")
    log = f"logs/{name}.log"
    link = f"[log]({log})" if (request.out / log).is_file() else ""
    seconds = sum(command.seconds for command in outcome.done)
    return (outcome.verdict, f"{seconds:.0f} s", outcome.reason, link)


def _reasons(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield from (f"- {row['form']}: {reason}" for reason in row["reasons"] or ())
    yield ""


def _table(request: Request, report: Mapping[str, Any]) -> Iterator[str]:
    gpus = (report["machine"].get("driver") or {}).get("gpus") or ()
    where = gpus[0]["name"] if request.provider == "cuda" and gpus else f"the {request.provider} provider"
    yield (
        f"Measured on {where} with seap-export {report['machine']['seap-export']}: medians of {request.runs} runs in "
        f"turn, {request.steps} decode steps each, one prompt, logits of the last token. `× dense` is the speed-up "
        "over the dense model with its interval, `of ideal` the share of the ideal speed-up of a decode step. The "
        "last column is what the paper ([arXiv 2503.07605](https://arxiv.org/abs/2503.07605)) reports for generating "
        "with Llama-2-7B in PyTorch on one GPU.\n"
    )
    yield markdown_table(SPEED_HEADER, map(speed_cells, report["speed"])) + "\n"


def _genai(gaps: Mapping[str, Any]) -> Iterator[str]:
    if not gaps:
        yield "GenAI generated nothing that could be compared.\n"
        return
    yield f"Version {gaps['version']} on {gaps['device']}, {len(gaps['generated'])} tokens: {gaps['text']!r}\n"
    yield (
        f"In our runner's logits, its tokens lie at most {gaps['largest_gap']:.3g} below the best one "
        f"(limit {gaps['limit']:g}).\n"
    )


def _profile(request: Request, figures: Mapping[str, Any]) -> Iterator[str]:
    if not figures:
        yield "No profile was taken.\n"
        return
    calls = ", ".join(f"{call['nodes']} nodes in {call['ms']:.2f} ms" for call in figures["calls"])
    yield f"The prompt and each step: {calls}. A call without nodes was replayed as a CUDA graph.\n"
    yield "Nodes of the first decode step. The times are the host's: on a GPU, those of launches.\n"
    yield markdown_table(PROFILE_HEADER, profile_rows(request)) + "\n"
    yield "The whole profile is profile.json, for chrome://tracing or [Perfetto](https://ui.perfetto.dev).\n"
