"""Options that several commands share, each defined once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import click

from seap_export.api.arguments import defaults_of
from seap_export.api.export import export
from seap_export.cli.console import Console
from seap_export.cli.groups import number_option, option, rare
from seap_export.cli.values import NumberOrWord, PathType, Ratio, Threads
from seap_export.common.providers import WRITTEN_FOR

Command = Callable[..., Any]
_AT_LEAST_1 = click.IntRange(min=1)
#: The defaults are those of the Python API.
_DEFAULTS = defaults_of(export)

model_argument = click.argument("model")

task_option = option(
    "--task",
    "tasks",
    multiple=True,
    required=True,
    metavar="[NAME=]SOURCE",
    help="Texts of a task: a corpus or a task file (NAME=FILE), an lm-eval task (gsm8k), a data set of the hub "
    "(OWNER/NAME), or a sample to try with (sample:arithmetic, sample:everyday, sample:reading). Repeatable.",
)
recipe_option = option(
    "--recipe",
    defaults=_DEFAULTS,
    metavar="NAME|FILE",
    help="How heads and neurons are chosen and compensated: a name that `seap-export recipes` lists, or a TOML file.",
)
layout_option = option(
    "--layout",
    defaults=_DEFAULTS,
    type=click.Choice(["per-layer", "uniform"]),
    help="Give each layer a shape of its own, or all the same, which some runtimes need.",
)
vocabulary_option = option(
    "--vocabulary",
    defaults=_DEFAULTS,
    type=NumberOrWord(),
    metavar="N|auto|all",
    help="Number of tokens to keep; auto: those that the tasks' texts use (docs/vocabulary.md).",
)


def provider_option(purpose: str, names: Iterable[str] = WRITTEN_FOR) -> Command:
    """--provider, of these names."""
    choices = click.Choice(list(names))
    return option("--provider", defaults=_DEFAULTS, type=choices, help=purpose)


threads_option = number_option("--threads", "Number of threads.  [default: all cores]", type=Threads())
max_kl_option = option(
    "--max-kl",
    type=float,
    metavar="NATS",
    help="Largest mean KL divergence from the dense model, in nats per token; a message says if it is too close to "
    "tell.",
)
raw_option = option("--raw", is_flag=True, help="Continue the prompt as it is, without the model's chat template.")
force_option = option("--force", is_flag=True, help="Replace files that were made from other inputs.")


def tokens_option(default: str) -> Command:
    """--calibration-tokens."""
    help = f"Largest number of tokens to calibrate on, for each task.  [default: {default}]"
    return number_option("--calibration-tokens", help, type=_AT_LEAST_1)


calibration_options = (
    number_option(
        "--samples", "Calibration texts of each task.  [default: as many as the tokens allow]", type=_AT_LEAST_1
    ),
    number_option(
        "--held-out",
        "Texts of each task that are set aside for the checks.  [default: 16, or a quarter of fewer than 64]",
        type=_AT_LEAST_1,
    ),
    option("--seed", defaults=_DEFAULTS, type=int, help="Seed of the split into calibration and held-out texts."),
    number_option(
        "--max-length", "Number of tokens after which a text is cut.", defaults=_DEFAULTS, type=click.IntRange(min=2)
    ),
    number_option(
        "--batch-tokens",
        "Number of tokens in a batch; it changes the speed and the memory only.",
        defaults=_DEFAULTS,
        type=_AT_LEAST_1,
    ),
)

answers_option = option(
    "--answers",
    defaults=_DEFAULTS,
    type=click.Choice(["data", "model"]),
    help="Make the variants from the answers of the data, or let MODEL answer the prompts itself.",
)
answer_tokens_option = number_option(
    "--answer-tokens", "Largest number of tokens in an answer that MODEL writes.", defaults=_DEFAULTS, type=_AT_LEAST_1
)

compute_options = (
    option("--device", defaults=_DEFAULTS, metavar="auto|cpu|cuda|cuda:N", help="Device that torch computes on."),
    *rare(
        option(
            "--memory",
            metavar="SIZE",
            help="Memory for hidden states and weights, such as 8GiB; the rest waits in files.  [default: most of "
            "the free memory]",
        )
    ),
    threads_option,
)

cluster_option = option(
    "--cluster",
    metavar="local|ray://HOST:PORT",
    help="Make the steps on the machines of a Ray cluster; --threads is the number of CPUs of a step.",
)

general_text_option = option(
    "--general-text",
    type=PathType(exists=True, dir_okay=False),
    help="A corpus or a task file; its first texts show how much variants lost outside their tasks.",
)
support_option = option(
    "--support",
    metavar="SOURCE[:SHARE]",
    help="General text to calibrate every variant on as well; SHARE is its weight beside the task's.  [default "
    "share: 0.3]",
)
general_option = option("--general", is_flag=True, help="Also make a variant for all tasks together.")
weight_option = option(
    "--weight",
    multiple=True,
    metavar="TASK=W",
    help="Weight of a task among several. Repeatable.  [default: 1]",
)
mixture_options = (
    weight_option,
    option(
        "--mix",
        multiple=True,
        metavar="NAME=TASK:W,...",
        help="Also make a variant for some of the tasks, such as mix.both = { maths = 2, chat = 1 }.",
    ),
)

router_options = (
    option(
        "--router/--no-router",
        default=_DEFAULTS["router"],
        help="Make a router if there are several tasks.  [default: true]",
    ),
    option(
        "--threshold",
        type=click.FloatRange(0.0, 1.0),
        help="Confidence that the router needs to choose a task.  [default: 0.7]",
    ),
)

rounding_option = option(
    "--rounding",
    defaults=_DEFAULTS,
    type=click.Choice(["calibrated", "nearest"]),
    help="Round 4-bit weights with the calibration texts, or each to the nearest level.",
)

parity_options = (
    option(
        "--limits",
        type=PathType(),
        help="A TOML file of limits that replace the defaults, such as max_abs = 0.0005 under [fp32].",
    ),
    number_option("--decode-steps", "Number of tokens decoded with the cache.", defaults=_DEFAULTS, type=_AT_LEAST_1),
    number_option("--prompts", "Number of held-out prompts compared.", defaults=_DEFAULTS, type=_AT_LEAST_1),
    number_option(
        "--long-tokens",
        "Number of tokens in the longest prompt, or as many as the model has positions.",
        defaults=_DEFAULTS,
        type=_AT_LEAST_1,
    ),
)


def output_options(command: Command) -> Command:
    """Adds --json and --quiet, and hands the command a `Console` as its first argument."""

    @option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    @option("--quiet", "-q", is_flag=True, help="Print no progress and no table.")
    @wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, **kwargs: Any) -> Any:
        if quiet:
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # downloads would show progress bars otherwise
        return command(Console(quiet, as_json), *args, **kwargs)

    return wrapped


def ratio_option(*, multiple: bool) -> Command:
    """--ratio, for one or for several variants."""
    return option(
        "--ratio",
        multiple=multiple,
        required=not multiple,
        once=not multiple,
        type=Ratio(),
        metavar="R",
        help="Fraction of the attention and MLP weights to remove, such as 0.2 or 20%."
        + (" Repeatable. A target replaces it." if multiple else ""),
    )


target_options = (
    option(
        "--target-size",
        metavar="SIZE",
        help="Target: largest size of the written folder, such as 60MB. Ratio and precision are chosen.",
    ),
    *rare(
        option(
            "--target-decode-speedup",
            type=float,
            metavar="X",
            help="Target: smallest speed-up of a decode step over the dense model in the usual precision. Ratio and "
            "precision are chosen.",
        )
    ),
    option(
        "--max-kl",
        type=float,
        metavar="NATS",
        help="Target: largest mean KL divergence from the dense model on held-out texts. The smallest variant is "
        "chosen.",
    ),
)


def out_option(purpose: str) -> Command:
    """--out, for a command that writes one thing."""
    return option("--out", required=True, type=PathType(), help=purpose)
