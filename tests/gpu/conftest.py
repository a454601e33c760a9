"""The GPU that tests of this folder run on, and the report that they leave in `gpu-report`: what ran, and its figures.

`pytest tests/gpu --gpu-provider webgpu` runs them on any GPU, and in software where there is none; cpu rehearses them.
Where the processor computes, models are small.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.exports import Outcome
from support.processes import Tool
from support.product import SOFTWARE, device_name

from validation.reports.markdown import markdown_table

HERE = Path(__file__).parent
#: What the tests need to run on a provider.
_NEEDS = {"cuda": "gpu", "tensorrt": "gpu", "webgpu": "webgpu"}
REPORT = Path("gpu-report")
#: `run("doctor")`: the JSON of a command that must succeed.
Run = Callable[..., Any]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks every test of this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.full)
            if (need := _NEEDS.get(config.getoption("--gpu-provider"))) is not None:
                item.add_marker(pytest.mark.needs(need))


@pytest.fixture(scope="session")
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--gpu-provider"))


@pytest.fixture(scope="session")
def rehearses(provider: str) -> bool:
    """Whether the processor computes what a GPU would, so that sizes are small."""
    return device_name(provider) in (None, SOFTWARE)


@pytest.fixture(scope="session")
def run(rehearses: bool, request: pytest.FixtureRequest) -> Run:
    """In a process of its own, after which the GPU's memory is free; in a rehearsal, a fork that imports nothing."""
    tool: Tool | None = request.getfixturevalue("tool") if rehearses else None

    def seap_export(*words: object) -> Any:
        arguments = [*map(str, words), "--json"]
        done = tool(Path.cwd(), *arguments, timeout=600) if tool else _started(arguments)
        assert done.code == 0, f"seap-export {' '.join(arguments)}: exit code {done.code}\n{done.err}"
        return json.loads(done.out)

    return seap_export


def _started(arguments: Sequence[str]) -> Outcome:
    command = [str(Path(sys.executable).with_name("seap-export")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def machine(run: Run) -> Mapping[str, Any]:
    """What `doctor` says."""
    return run("doctor")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Writes the report."""
    stats = terminalreporter.stats
    phases = [phase for name in ("passed", "failed", "error", "skipped") for phase in stats.get(name, [])]
    tests = [_outcome(phase) for phase in phases if phase.nodeid.startswith("tests/gpu/")]
    if tests:
        REPORT.mkdir(exist_ok=True)
        (REPORT / "report.json").write_text(json.dumps({"tests": tests}, indent=1) + "\n", "utf-8")
        (REPORT / "report.md").write_text("\n\n".join(_page(tests)) + "\n", "utf-8")
        terminalreporter.write_line(f"the report is {REPORT / 'report.md'}")


def _outcome(phase: pytest.TestReport) -> dict[str, Any]:
    skipped = phase.skipped and isinstance(phase.longrepr, tuple)
    reason = phase.longrepr[2] if skipped else phase.longreprtext if phase.failed else ""  # type: ignore[index]
    told = {"outcome": phase.outcome, "seconds": phase.duration, "figures": dict(phase.user_properties)}
    return {"test": phase.nodeid.partition("::")[2], "reason": reason, **told}


def _page(tests: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The page in Markdown, paragraph by paragraph."""
    machine = next((test["figures"]["machine"] for test in tests if "machine" in test["figures"]), {})
    devices = [each["device"] for each in machine.get("providers", {}).values() if each["device"]]
    gpus = ", ".join([*(gpu["name"] for gpu in machine.get("driver", {}).get("gpus", ())), *devices])
    failed = sum(test["outcome"] == "failed" for test in tests)
    yield f"# {'Checks' if gpus else 'A rehearsal of the checks'} on {gpus or 'the CPU'}: {failed} failed"
    yield f"```json\n{json.dumps(machine, indent=1)}\n```"
    cells = [(test["test"], test["outcome"], f"{test['seconds']:.0f} s") for test in tests]
    yield markdown_table(("test", "outcome", "time"), cells)
    for kind in ("parity", "speed", "generation"):
        if rows := [row for test in tests for row in test["figures"].get(kind, ())]:
            cells = [list(map(str, row.values())) for row in rows]
            yield f"## {kind.capitalize()}\n\n{markdown_table(list(rows[0]), cells)}"
    for test in (test for test in tests if test["reason"]):
        yield f"## {test['test']}\n\n```\n{test['reason']}\n```"
