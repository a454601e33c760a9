"""`seap-export calibrate`: computes the statistics of every task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seap_export.cli import options as shared
from seap_export.cli.console import Console, table
from seap_export.cli.groups import GroupedCommand, titled


@click.command("calibrate", cls=GroupedCommand)
@shared.model_argument
@titled("Tasks", shared.task_option, shared.tokens_option("65536, or all with --samples"), *shared.calibration_options)
@titled(
    "Output",
    shared.out_option("Folder for the statistics: OUT/calibration/TASK; `export` with the same --out uses them."),
    shared.force_option,
)
@titled("Machine", *shared.compute_options, shared.output_options)
def calibrate_command(
    console: Console, model: str, tasks: tuple[str, ...], out: Path, threads: int | None, force: bool, **options: Any
) -> None:
    """Run the texts of each task through MODEL, and save the statistics that plans are made from.

    \b
    Example:
      seap-export calibrate ./SmolLM2-135M --task gsm8k=gsm8k.jsonl --out pruned
    """
    from seap_export.api.memory import warn_of_memory
    from seap_export.api.settings import calibration_settings, compute_of
    from seap_export.corpus import parse_tasks
    from seap_export.model.layers.compute import torch_threads
    from seap_export.model.sources.open import open_source
    from seap_export.pipeline.calibrate import calibrate
    from seap_export.pipeline.cost.checks import recorded_model
    from seap_export.pipeline.folder.names import calibration_step
    from seap_export.pruning.activations.statistics import Calibration

    compute, settings = compute_of(options), calibration_settings(options)
    parsed = parse_tasks(tasks)
    source = open_source(recorded_model(model, out))
    warn_of_memory(console, source, compute)
    with torch_threads(threads):
        calibrate(source, parsed, settings, out, force=force, compute=compute, progress=console)
    calibrations = {task.name: Calibration(out / calibration_step(task.name)) for task in parsed}
    result = {
        task: {
            "statistics": str(out / calibration_step(task)),
            "texts": len(calibration.record.calibration_texts),
            "tokens": calibration.record.num_tokens,
        }
        for task, calibration in calibrations.items()
    }
    rows = [[task, str(row["texts"]), str(row["tokens"]), str(row["statistics"])] for task, row in result.items()]
    console.result({"tasks": result}, table(["task", "texts", "tokens", "statistics"], rows))
