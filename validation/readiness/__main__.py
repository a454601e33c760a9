"""`python -m validation.readiness`: runs everything that has to be seen on a GPU and writes one report."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

import click

from validation.readiness.request import Programs, Request
from validation.readiness.run import known_outcomes, run_steps
from validation.readiness.step import Step
from validation.readiness.steps import plan_steps

_FAILED = 1
_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--model", required=True, help="The model that is pruned: a folder, a .gguf file or a hub id.")
@click.option(
    "--texts",
    default="seap_export/corpus/samples/arithmetic.jsonl",
    show_default=True,
    type=_PATH,
    help="Texts for calibration and parity.",
)
@click.option("--out", default="gpu-report", show_default=True, type=_PATH, help="Folder of the report.")
@click.option("--work", default="gpu-work", show_default=True, type=_PATH, help="Folder of models and graphs.")
@click.option(
    "--provider",
    default="cuda",
    show_default=True,
    type=click.Choice(["cuda", "cpu"]),
    help="`cpu` rehearses the run where there is no GPU.",
)
@click.option("--only", multiple=True, metavar="STEP", help="Run only this step. Repeatable.")
@click.option("--resume", is_flag=True, help="Leave out the steps that passed in the last run.")
@click.option("--dry-run", is_flag=True, help="Print each command and what it needs, and run nothing.")
@click.option(
    "--limit-minutes",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Stop a command that takes longer.",
)
def readiness(only: tuple[str, ...], resume: bool, dry_run: bool, limit_minutes: float, **options: Any) -> None:
    """Run the steps and write the report; the exit code is 1 if a step failed.

    Skipped steps, which this machine is too small for, are no failure. Ctrl-C ends the run with a report.
    """
    request = Request(programs=_programs(options["provider"]), **options)
    steps = plan_steps(request)
    unknown = sorted(set(only) - {step.name for step in steps})
    if unknown:
        names = ", ".join(step.name for step in steps)
        raise click.UsageError(f"there is no step {unknown[0]}; the steps are {names}")
    wanted = [step.name for step in steps if not only or step.name in only]
    if resume:
        passed = {name for name, outcome in known_outcomes(steps, request).items() if outcome.verdict == "passed"}
        wanted = [name for name in wanted if name not in passed]
    if dry_run:
        for step in steps:
            if step.name in wanted:
                _show(step)
        return
    stop, signals = Event(), list[int]()

    def remember(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, remember)

    def say(line: str) -> None:
        click.echo(line, err=True)

    try:
        outcomes = run_steps(steps, request, wanted, limit_minutes * 60, say, stop)
    except KeyboardInterrupt:
        click.echo(f"interrupted; the report is {request.out / 'report.md'}; --resume continues", err=True)
        sys.exit(128 + signals[0])
    click.echo(f"the report is {request.out / 'report.md'}")
    if any(outcome.verdict in ("failed", "blocked") for outcome in outcomes.values()):
        sys.exit(_FAILED)


def _programs(provider: str) -> Programs:
    """The programs of this environment, and GenAI's in the one that make builds."""
    home = Path(".venv-genai-cuda" if provider == "cuda" else ".venv-genai")
    return Programs(
        seap_export=(str(Path(sys.executable).with_name("seap-export")),),
        python=(sys.executable,),
        genai=(str(home / "bin" / "python"),),
        make_genai=("make", str(home / "installed")),
    )


def _show(step: Step) -> None:
    sizes = {"disk space": step.disk_bytes, "memory": step.memory_bytes, "GPU memory": step.gpu_bytes}
    needs = [f"{size / 1e9:.1f} GB of {what}" for what, size in sizes.items() if size]
    needs += [str(path) for path in step.after]
    click.echo(f"{step.name}: {step.purpose}")
    click.echo(f"  needs {', '.join(needs) or 'nothing in particular'}; how long it takes is unknown")
    for command in step.commands:
        click.echo(f"  $ {command.line}")


if __name__ == "__main__":
    readiness()
