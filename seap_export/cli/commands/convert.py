"""`seap-export convert`: from a model folder to another format."""

from __future__ import annotations

from typing import Any

import click

from seap_export.cli.console import Console, megabytes
from seap_export.cli.form import format_option, logits_option, precision_option, rare_form_options
from seap_export.cli.groups import GroupedCommand, option, rare, titled
from seap_export.cli.options import (
    compute_options,
    force_option,
    out_option,
    output_options,
    provider_option,
    weight_option,
)
from seap_export.cli.values import ExistingPath, PathType


@click.command("convert", cls=GroupedCommand)
@click.argument("folder", type=ExistingPath())
@titled(
    "Output",
    format_option,
    out_option("Folder for the files of the format, such as model.onnx, its data, tokenizer and genai_config.json."),
    force_option,
)
@titled(
    "ONNX",
    provider_option("Execution provider of ONNX Runtime that the graph is written for."),
    precision_option(),
    *rare(*rare_form_options),
    logits_option,
)
@titled(
    "Rounding to 4 bits",
    option(
        "--calibration",
        multiple=True,
        type=PathType(),
        help="Statistics of a task, OUT/calibration/TASK of `calibrate` or `export`; its texts are used for rounding. "
        "Repeatable.  [default: each weight gets the nearest level]",
    ),
    *rare(weight_option),
)
@titled("Machine", *compute_options, output_options)
def convert_command(console: Console, **options: Any) -> None:
    """Write the model in FOLDER, pruned or dense, in another format.

    \b
    Examples:
      seap-export convert pruned/gsm8k-0.2/hf --out gsm8k-onnx
      seap-export convert pruned/gsm8k-0.2/hf --format onnx:int4 --out gsm8k-int4
      seap-export convert ./SmolLM2-135M --precision int4 --calibration pruned/calibration/gsm8k --out dense-int4
    """
    from seap_export.api.convert import convert

    model = convert(**options, progress=console)
    console.result({"folder": str(model.path), "bytes": model.bytes}, f"{model.path}: {megabytes(model.bytes)}")
