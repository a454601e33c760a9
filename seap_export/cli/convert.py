"""`seap-export convert`: from a model folder to another format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seap_export.cli.console import Console, megabytes
from seap_export.cli.form import format_option, formats_of, logits_option, precision_option, rare_form_options
from seap_export.cli.groups import GroupedCommand, titled
from seap_export.cli.options import PathType, force_option, out_option, output_options, provider_option

__all__ = ["convert_command"]


@click.command("convert", cls=GroupedCommand)
@click.argument("folder", type=PathType())
@titled(
    "What to write",
    format_option,
    out_option("Folder for the files of the format, such as model.onnx, its data, tokenizer and genai_config.json."),
    force_option,
)
@titled("Form of an ONNX graph", provider_option, precision_option, *rare_form_options, logits_option("all"))
@titled("Output", output_options)
def convert_command(console: Console, folder: Path, format_name: str, out: Path, force: bool, **options: Any) -> None:
    """Write the model in FOLDER, pruned by this tool or dense, in another format, by default for ONNX Runtime.

    \b
    Examples:
      seap-export convert pruned/gsm8k-0.2/hf --out gsm8k-onnx
      seap-export convert pruned/gsm8k-0.2/hf --format onnx:int4 --logits last --out gsm8k-int4
    """
    from seap_export.pipeline.convert import convert

    (own,) = formats_of([format_name], options)
    size = convert(folder, own, out, console, force=force)
    console.result({"folder": str(out), "bytes": size}, f"{out}: {megabytes(size)}")
