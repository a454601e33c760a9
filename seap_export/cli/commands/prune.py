"""`seap-export prune`: turns a plan into a smaller model."""

from __future__ import annotations

from typing import Any

import click

from seap_export.api.prune import PruneOptions, prune
from seap_export.cli.console import Console
from seap_export.cli.groups import GroupedCommand, titled
from seap_export.cli.options import option_of, options_of, output_options
from seap_export.pipeline.request.options import ComputeOptions


@click.command("prune", cls=GroupedCommand)
@option_of(PruneOptions, "model")
@titled("Options", *options_of(PruneOptions, "plan", "calibration", "out", "force"))
@titled("Machine", *options_of(ComputeOptions), output_options)
def prune_command(console: Console, **options: Any) -> None:
    """Cut MODEL down as a plan says, and write the smaller model folder.

    \b
    Example:
      seap-export prune ./SmolLM2-135M --plan plan.json --calibration pruned/calibration/gsm8k --out shrunk
    """
    model = prune(**options, progress=console)
    result = {"folder": str(model.path), "num_parameters": model.num_parameters}
    console.result(result, f"{model.path}: {model.num_parameters:,} parameters")
