"""Options that several commands share, each defined once."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from seap_export.cli.console import Console

__all__ = [
    "PathType",
    "calibration_options",
    "force_option",
    "model_argument",
    "out_option",
    "output_options",
    "parity_options",
    "plan_options",
    "ratio_option",
    "task_option",
]

Command = Callable[..., Any]


class PathType(click.Path):
    """A path; `~` is expanded where the shell leaves it, as in `--out=~/pruned`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """From text to a path."""
        return Path(os.path.expanduser(os.fsdecode(super().convert(value, param, ctx))))


model_argument = click.argument("model")

task_option = click.option(
    "--task",
    "tasks",
    multiple=True,
    required=True,
    metavar="NAME=FILE",
    help="A task and its corpus: JSONL, Parquet or text, or a task file (.toml) that maps fields. Repeatable.",
)
ratio_option = click.option(
    "--ratio",
    "ratios",
    multiple=True,
    required=True,
    type=float,
    help="Fraction of all attention and MLP weights to remove, from 0 to below 1. Repeatable.",
)
force_option = click.option("--force", is_flag=True, help="Replace what was made from other inputs.")


def _chained(*options: Command) -> Command:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


calibration_options = _chained(
    click.option("--samples", type=int, help="Calibration texts a task.  [default: 200, or all there are]"),
    click.option("--held-out", type=int, default=16, show_default=True, help="Texts a task kept for parity."),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of the split into the two."),
    click.option("--max-length", type=int, default=512, show_default=True, help="Tokens after which a text is cut."),
    click.option(
        "--batch-tokens", type=int, default=4096, show_default=True, help="Tokens in a batch; only the speed depends."
    ),
)

plan_options = _chained(
    click.option("--score", type=click.Choice(["wifv", "wifn"]), default="wifv", show_default=True, help="Score."),
    click.option(
        "--sparsity",
        type=click.Choice(["logistic", "uniform"]),
        default="logistic",
        show_default=True,
        help="How sparsity is spread over the layers.",
    ),
    click.option("--k", type=float, default=0.8, show_default=True, help="Steepness of the logistic curve."),
    click.option("--x0", type=float, default=0.3, show_default=True, help="Midpoint of the logistic curve."),
    click.option("--protect-first", type=int, help="First layers left whole.  [default: 2, fewer if shallow]"),
    click.option("--protect-last", type=int, help="Last layers left whole.  [default: 2, fewer if shallow]"),
    click.option("--align", type=int, default=16, show_default=True, help="Neuron counts are multiples of this."),
    click.option(
        "--compensate",
        type=click.Choice(["bias", "none"]),
        default="bias",
        show_default=True,
        help="Whether the mean of what is removed goes into a bias.",
    ),
)

parity_options = _chained(
    click.option(
        "--provider", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Execution provider."
    ),
    click.option("--tolerance", type=float, default=1e-3, show_default=True, help="Largest difference of a logit."),
    click.option("--decode-steps", type=int, default=8, show_default=True, help="Tokens decoded with the cache."),
    click.option("--prompts", type=int, default=4, show_default=True, help="Held-out prompts compared."),
    click.option("--threads", type=int, help="Threads of the comparison.  [default: all cores]"),
)


def output_options(command: Command) -> Command:
    """Adds --json and --quiet, and hands the command a `Console` as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    @click.option("--quiet", "-q", is_flag=True, help="Print no progress and no table.")
    @wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, **kwargs: Any) -> Any:
        if quiet:
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # downloads show their own otherwise
        return command(Console(quiet, as_json), *args, **kwargs)

    return wrapped


def out_option(what: str) -> Command:
    """--out, for a command that writes one thing."""
    return click.option("--out", required=True, type=PathType(), help=what)
