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
    "mixture_options",
    "model_argument",
    "out_option",
    "output_options",
    "parity_options",
    "plan_options",
    "ratio_option",
    "router_options",
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
        "--batch-tokens", type=int, default=1024, show_default=True, help="Tokens in a batch; only the speed depends."
    ),
)

plan_options = _chained(
    click.option(
        "--method",
        type=click.Choice(["reconstruct", "seap", "wanda-sp", "flap"]),
        default="reconstruct",
        show_default=True,
        help="The recipe; the options below change parts of it.",
    ),
    click.option(
        "--score", type=click.Choice(["elimination", "wifv", "wifn"]), help="How heads and neurons are ranked."
    ),
    click.option(
        "--sparsity",
        type=click.Choice(["adaptive", "logistic", "uniform", "global"]),
        help="How sparsity is spread over the layers.",
    ),
    click.option(
        "--balance",
        type=click.Choice(["loss", "alike"]),
        help="Heads against neurons: by what is lost, or the same fraction of both.",
    ),
    click.option(
        "--compensate",
        type=click.Choice(["reconstruct", "bias", "none"]),
        help="o_proj and down_proj refitted, a bias for the mean of what is removed, or nothing.",
    ),
    click.option(
        "--reconstruction",
        type=click.Choice(["sequential", "one-shot"]),
        help="Refit layer by layer behind each other, or from the dense statistics alone.  [default: sequential]",
    ),
    click.option("--ridge", type=float, help="Strength of the refit's ridge."),
    click.option("--budget", type=click.Choice(["weights", "macs", "bytes"]), help="What the ratio is a fraction of."),
    click.option("--context", type=int, help="Positions in the cache, for the budgets macs and bytes."),
    click.option("--k", type=float, help="Steepness of the logistic curve.  [default: 0.8]"),
    click.option("--x0", type=float, help="Midpoint of the logistic curve.  [default: 0.3]"),
    click.option("--protect-first", type=int, help="First layers left whole.  [default: 2 on a curve, else 0]"),
    click.option("--protect-last", type=int, help="Last layers left whole.  [default: 2 on a curve, else 0]"),
    click.option(
        "--layout",
        type=click.Choice(["per-layer", "uniform"]),
        default="per-layer",
        show_default=True,
        help="Each layer its own shape, or all the same, for programs that know only such models.",
    ),
    click.option("--align", type=int, help="Neuron counts are multiples of this.  [default: 16, for CUDA 64]"),
    click.option(
        "--mix-scores",
        type=click.Choice(["scaled", "plain"]),
        help="Scores of several tasks: on one scale before they are added, or as they are.  [default: scaled]",
    ),
)

mixture_options = _chained(
    click.option("--general", is_flag=True, help="Make a variant for all tasks together, too."),
    click.option(
        "--weight",
        "weights",
        multiple=True,
        metavar="TASK=W",
        help="A task's weight in it.  [default: 1]  Repeatable.",
    ),
    click.option(
        "--mix",
        "mixes",
        multiple=True,
        metavar="NAME=TASK:W,...",
        help="Make a variant for some tasks together, too. Repeatable.",
    ),
)

router_options = _chained(
    click.option("--router/--no-router", default=True, show_default=True, help="With several tasks: make a router."),
    click.option("--threshold", type=float, help="Confidence the router wants to pick a task.  [default: 0.7]"),
)

parity_options = _chained(
    click.option(
        "--limits",
        type=PathType(),
        help="A TOML file of limits that replace the defaults of docs/validation.md: [fp32], then max_abs = 0.0005.",
    ),
    click.option("--decode-steps", type=int, default=16, show_default=True, help="Tokens decoded with the cache."),
    click.option("--prompts", type=int, default=4, show_default=True, help="Held-out prompts compared."),
    click.option(
        "--long-tokens",
        type=int,
        default=2048,
        show_default=True,
        help="Positions that the longest prompt reaches, as far as the model's go.",
    ),
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
