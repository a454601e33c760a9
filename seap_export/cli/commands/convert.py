"""`seap-export convert`: from a model folder to another format."""

from __future__ import annotations

from typing import Any

import click

from seap_export.api.convert import ConvertOptions, convert
from seap_export.cli.console import Console, megabytes
from seap_export.cli.groups import GroupedCommand, rare, titled
from seap_export.cli.options import RARE_FORM, option_of, options_of, output_options
from seap_export.cli.values import ExistingPath
from seap_export.pipeline.request.options import ComputeOptions


@click.command("convert", cls=GroupedCommand)
@click.argument("folder", type=ExistingPath())
@titled("Output", option_of(ConvertOptions, "format"), *options_of(ConvertOptions, "out", "force"))
@titled(
    "ONNX",
    *options_of(ConvertOptions, "provider", "precision"),
    *rare(*options_of(ConvertOptions, *RARE_FORM)),
    option_of(ConvertOptions, "logits", rare=False),
)
@titled("Rounding to 4 bits", option_of(ConvertOptions, "calibration"), option_of(ConvertOptions, "weight", rare=True))
@titled("Machine", *options_of(ComputeOptions), output_options)
def convert_command(console: Console, **options: Any) -> None:
    """Write the model in FOLDER, pruned or dense, in another format.

    \b
    Examples:
      seap-export convert pruned/gsm8k-0.2/hf --out gsm8k-onnx
      seap-export convert pruned/gsm8k-0.2/hf --format onnx:int4 --out gsm8k-int4
      seap-export convert ./SmolLM2-135M --precision int4 --calibration pruned/calibration/gsm8k --out dense-int4
    """
    model = convert(**options, progress=console)
    console.result({"folder": str(model.path), "bytes": model.bytes}, f"{model.path}: {megabytes(model.bytes)}")
