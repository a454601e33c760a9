"""`seap-export prune`: turns a plan into a smaller model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seap_export.cli.console import Console
from seap_export.cli.groups import GroupedCommand, option, titled
from seap_export.cli.memory import warn_of_memory
from seap_export.cli.options import (
    PathType,
    compute_options,
    force_option,
    model_argument,
    out_option,
    output_options,
)

__all__ = ["prune_command"]


@click.command("prune", cls=GroupedCommand)
@model_argument
@option("--plan", "plan_file", required=True, type=PathType(), help="A plan.json of `plan` or `export`.")
@option(
    "--calibration",
    "calibrations",
    multiple=True,
    required=True,
    type=PathType(),
    help="The statistics that the plan was made from. Repeatable, for a mixture.",
)
@out_option("Folder for the shrunk model.")
@force_option
@titled("Machine", *compute_options, output_options)
def prune_command(
    console: Console,
    model: str,
    plan_file: Path,
    calibrations: tuple[Path, ...],
    out: Path,
    force: bool,
    **options: Any,
) -> None:
    """Cut MODEL down as a plan says, and write the smaller model folder.

    \b
    Example:
      seap-export prune ./SmolLM2-135M --plan plan.json --calibration pruned/calibration/gsm8k --out shrunk
    """
    from seap_export.api.settings import compute_of
    from seap_export.distillation.write import variant_units, write_variant
    from seap_export.pipeline.folder.outputs import write_whole
    from seap_export.pipeline.request.mixtures import open_mixture_of
    from seap_export.plan.plan import read_plan
    from seap_export.sources.source import open_source

    compute = compute_of(options)
    plan, source = read_plan(plan_file), open_source(model)
    warn_of_memory(console, source, compute)
    statistics = open_mixture_of(plan, calibrations)
    units = variant_units(len(plan.layers), plan.settings.distillation, plan.requested_ratio)
    console.say(f"hashing {source.name}")
    with (
        write_whole(out, marker=_marker(out), force=force) as folder,
        console.step("shrinking", units, "parts") as advance,
    ):
        write_variant(source, plan, statistics, folder, advance, compute=compute)
    parameters = plan.shrunk_spec(source.spec).num_parameters()
    console.result({"folder": str(out), "num_parameters": parameters}, f"{out}: {parameters:,} parameters")


def _marker(out: Path) -> str:
    """The file at `out` by which --force recognises a pruned model, and nothing else."""
    from seap_export.families import is_pruned
    from seap_export.json_file import read_json
    from seap_export.shrink.write import MODELING_FILES

    config = out / "config.json"
    return config.name if config.is_file() and is_pruned(read_json(config)) else MODELING_FILES[0]
