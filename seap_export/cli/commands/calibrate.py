"""`seap-export calibrate`: computes the statistics of every task."""

from __future__ import annotations

from typing import Any

import click

from seap_export.api.options import RunOptions
from seap_export.cli.console import Console
from seap_export.cli.groups import GroupedCommand, titled
from seap_export.cli.options import option_of, options_of, output_options
from seap_export.cli.window import Table
from seap_export.common.options import option, options, part
from seap_export.common.values import FilePath
from seap_export.pipeline.request.options import BatchOptions, CalibrationSettings, ComputeOptions, TaskOptions


@options
class CalibrateOptions(RunOptions, BatchOptions, CalibrationSettings, TaskOptions):
    """All options of `calibrate`."""

    out: FilePath = option("Folder for the statistics: OUT/calibration/TASK; `export` with the same --out uses them.")


@click.command("calibrate", cls=GroupedCommand)
@option_of(CalibrateOptions, "model")
@titled(
    "Tasks",
    option_of(CalibrateOptions, "tasks"),
    option_of(CalibrateOptions, "calibration_tokens", rare=False, unset="65536, or all with --samples"),
    *options_of(CalibrateOptions, "samples", "held_out", "seed", "max_length", "batch_tokens"),
)
@titled("Output", *options_of(CalibrateOptions, "out", "force"))
@titled("Machine", *options_of(ComputeOptions), output_options)
def calibrate_command(console: Console, **given: Any) -> None:
    """Run the texts of each task through MODEL, and save the statistics that plans are made from.

    \b
    Example:
      seap-export calibrate ./SmolLM2-135M --task gsm8k=gsm8k.jsonl --out pruned
    """
    from seap_export.api.memory import warn_of_memory
    from seap_export.api.settings import compute_of
    from seap_export.model.layers.compute import torch_threads
    from seap_export.model.sources.open import open_source
    from seap_export.pipeline.calibrate import calibrate
    from seap_export.pipeline.cost.checks import recorded_model
    from seap_export.pipeline.folder.names import calibration_step
    from seap_export.pruning.activations.statistics import Calibration

    options = CalibrateOptions(**given, progress=console)
    compute, settings, out = compute_of(options), part(CalibrationSettings, options), options.out
    source = open_source(recorded_model(options.model, out))
    warn_of_memory(console, source, compute)
    with torch_threads(options.threads):
        calibrate(source, options.tasks, settings, out, force=options.force, compute=compute, progress=console)
    calibrations = {task.name: Calibration(out / calibration_step(task.name)) for task in options.tasks}
    result = {
        task: {
            "statistics": str(out / calibration_step(task)),
            "texts": len(calibration.record.calibration_texts),
            "tokens": calibration.record.num_tokens,
        }
        for task, calibration in calibrations.items()
    }
    rows = [[task, str(row["texts"]), str(row["tokens"]), str(row["statistics"])] for task, row in result.items()]
    console.result({"tasks": result}, Table(["task", "texts", "tokens", "statistics"], rows).text)
