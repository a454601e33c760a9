"""The sample workflow and action: their steps are run in bash, with a stand-in for `seap-export`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from validation.reports.reading import EXIT_WORDS

CI = Path(__file__).parents[2] / "samples" / "ci"
ACTION: dict[str, Any] = yaml.safe_load((CI / "validate-action" / "action.yml").read_text("utf-8"))
WORKFLOW: dict[str, Any] = yaml.safe_load((CI / "validate.yml").read_text("utf-8"))
STEPS = ACTION["runs"]["steps"]
JOB_STEPS = WORKFLOW["jobs"]["validate"]["steps"]
# Records its arguments, one a line, and does what `validate` does where something fails.
STAND_IN = """#!/usr/bin/env bash
printf '%s\\n' "$@" >> "$RECORD"
[ "$1" = validate ] || exit 0
while [ $# -gt 0 ]; do case "$1" in --out | --junit | --html) echo report > "$2"; shift ;; esac; shift; done
exit "$CODE"
"""


class Bash:
    """Runs a step as a runner of GitHub does: its environment with inputs put in, `bash -eo pipefail`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.record, self.output = folder, folder / "record", folder / "output"
        (folder / "bin").mkdir()
        for name in ("seap-export", "python"):
            (folder / "bin" / name).write_text(STAND_IN, "utf-8")
            (folder / "bin" / name).chmod(0o755)

    def run(self, step: dict[str, Any], code: int, **inputs: str) -> subprocess.CompletedProcess[str]:
        values = {f"inputs.{name}": str(given.get("default", "")) for name, given in ACTION["inputs"].items()}
        values |= {f"inputs.{name}": value for name, value in inputs.items()}
        values["steps.seap.outputs.exit-code"] = str(code)
        environment = {"PATH": f"{self.folder / 'bin'}:/usr/bin:/bin", "CODE": str(code), "RECORD": str(self.record)}
        environment |= {"GITHUB_OUTPUT": str(self.output)}
        for name, value in step.get("env", {}).items():
            environment[name] = re.sub(r"\$\{\{ (.+?) \}\}", lambda match: values[match[1]], value)
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    @property
    def arguments(self) -> list[str]:
        """What the stand-in was called with."""
        return self.record.read_text("utf-8").splitlines()


@pytest.fixture
def bash(tmp_path: Path) -> Bash:
    return Bash(tmp_path)


def _named(steps: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(step for step in steps if step.get("name") == name)


@pytest.mark.parametrize("code", [0, 3])
def test_validate_keeps_the_exit_code_and_writes_the_reports(bash: Bash, code: int) -> None:
    done = bash.run(_named(STEPS, "Validate"), code, directory="my artifacts")
    assert done.returncode == code, done.stderr
    reports = ("validation.json", "validation.xml", "validation.html")
    options = [part for pair in zip(("--out", "--junit", "--html"), reports, strict=True) for part in pair]
    written = [f"validation-reports/{part}" if part in reports else part for part in options]
    assert bash.arguments == ["validate", "my artifacts", *written]
    assert bash.output.read_text("utf-8") == f"exit-code={code}\n"
    folder = bash.folder / ACTION["inputs"]["reports"]["default"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(reports)


def test_options_are_split_and_never_run(bash: Bash) -> None:
    options = "--threads 2\n--limits  limits.toml $(touch hacked) `touch hacked`; touch hacked"
    done = bash.run(_named(STEPS, "Validate"), 0, directory="$(touch hacked)", options=options)
    assert done.returncode == 0, done.stderr
    assert bash.arguments[:6] == ["validate", "$(touch hacked)", "--threads", "2", "--limits", "limits.toml"]
    assert not (bash.folder / "hacked").exists()


def test_inputs_come_from_the_environment_and_those_that_are_given_there_are() -> None:
    scripts = [step for step in (*STEPS, *JOB_STEPS) if "run" in step]
    assert len(scripts) == 4
    assert not any("${{" in step["run"] for step in scripts)
    (step,) = (step for step in JOB_STEPS if step.get("uses", "").startswith("./"))
    required = {name for name, given in ACTION["inputs"].items() if given.get("required")}
    assert required <= set(step["with"]) <= set(ACTION["inputs"])
    assert (step["id"], _named(STEPS, "Validate")["id"]) == ("seap", "validate")
    assert ACTION["outputs"]["exit-code"]["value"] == "${{ steps.validate.outputs.exit-code }}"
    assert "pull_request" in WORKFLOW[True]  # YAML 1.1 reads the key `on` as true


def test_workflow_tells_every_gate_by_name(bash: Bash) -> None:
    told = {code: bash.run(_named(JOB_STEPS, "Report which gate failed"), code).stdout for code in (*EXIT_WORDS, 99)}
    del told[0]
    assert all(line.startswith("::error::") for line in told.values())
    assert len(set(told.values())) == len(told)
    assert "parity" in told[3]
    assert "99" in told[99]
