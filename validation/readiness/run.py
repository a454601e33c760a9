"""Runs the steps; whatever happens to one of them, the report is written and the others are tried."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from threading import Event

from validation.readiness.machine import missing_file, read_json, shortage
from validation.readiness.processes import run_command, words_of_exit
from validation.readiness.report import write_report
from validation.readiness.request import Request
from validation.readiness.step import Done, Outcome, Step

REPORT = "report.json"


def run_steps(
    steps: Sequence[Step],
    request: Request,
    wanted: Collection[str],
    limit: float,
    say: Callable[[str], None],
    stop: Event | None = None,
) -> dict[str, Outcome]:
    """Runs the wanted steps; the report, which also shows the others' last outcomes, is renewed after each.

    Args:
        steps: All steps.
        request: What they were made from.
        wanted: Names of the steps to run.
        limit: Seconds after which a command is stopped.
        say: Receives a line before and after each step.
        stop: Set, by a signal for example, when the run is to stop.

    Returns:
        The outcome of each step that ever ran, in the order of the steps.

    Raises:
        KeyboardInterrupt: Somebody stopped the run; the report says so.
    """
    stop = stop or Event()
    for folder in (request.out / "results", request.out / "logs", request.work):
        folder.mkdir(parents=True, exist_ok=True)
    outcomes = known_outcomes(steps, request)
    for step in (step for step in steps if step.name in wanted):
        say(f"{step.name}: {step.purpose}")
        outcomes[step.name] = outcome = _outcome(step, request, limit, stop)
        in_order = {step.name: outcomes[step.name] for step in steps if step.name in outcomes}
        write_report(steps, in_order, request)
        say(f"{step.name}: {outcome.verdict}{f', {outcome.reason}' if outcome.reason else ''}")
        if outcome.verdict == "interrupted":
            raise KeyboardInterrupt
    return {step.name: outcomes[step.name] for step in steps if step.name in outcomes}


def known_outcomes(steps: Sequence[Step], request: Request) -> dict[str, Outcome]:
    """What an earlier run into the same folder found, for steps whose commands are the same."""
    written = read_json(request.out / REPORT).get("steps", {})
    return {
        step.name: Outcome.of_json(written[step.name])
        for step in steps
        if written.get(step.name, {}).get("commands") == [command.line for command in step.commands]
    }


def _outcome(step: Step, request: Request, limit: float, stop: Event) -> Outcome:
    log = request.out / "logs" / f"{step.name}.log"
    log.unlink(missing_ok=True)
    if reason := missing_file(step):
        return Outcome("blocked", reason)
    if reason := shortage(step, request):
        return Outcome("skipped", reason)
    done: list[Done] = []
    for command in step.commands:
        if command.saves:
            command.saves.unlink(missing_ok=True)  # no table shows what an earlier run found
        try:
            done.append(run_command(command, log, limit, stop))
        except KeyboardInterrupt:
            return Outcome("interrupted", "somebody stopped it", tuple(done))
        if done[-1].exit_code != 0 and not command.is_optional:
            return Outcome("failed", _reason(done[-1], log), tuple(done))
    return Outcome("passed", done=tuple(done))


def _reason(failed: Done, log: Path) -> str:
    """The command's last error, which is one line, or how it ended."""
    lines = log.read_text("utf-8", "replace").rpartition(f"$ {failed.line}")[2].splitlines()
    errors = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    how = words_of_exit(failed.exit_code)
    return f"{errors[-1]} ({how})" if errors else f"{how}; see {log}"
