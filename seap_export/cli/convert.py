"""`seap-export convert`: from a model folder to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seap_export.cli.console import Console, megabytes
from seap_export.cli.form import form_of, logits_option, precision_option, rare_form_options
from seap_export.cli.groups import GroupedCommand, titled
from seap_export.cli.options import PathType, force_option, out_option, output_options, provider_option

__all__ = ["convert_command"]


@click.command("convert", cls=GroupedCommand)
@click.argument("folder", type=PathType())
@titled(
    "What to write",
    out_option("Folder for model.onnx, its data, the tokenizer and genai_config.json."),
    force_option,
)
@titled("Form of the graph", provider_option, precision_option, *rare_form_options, logits_option("all"))
@titled("Output", output_options)
def convert_command(console: Console, folder: Path, out: Path, force: bool, **options: Any) -> None:
    """Write the model in FOLDER, pruned by this tool or dense, as an ONNX graph for ONNX Runtime.

    \b
    Examples:
      seap-export convert pruned/gsm8k-0.2/hf --out gsm8k-onnx
      seap-export convert pruned/gsm8k-0.2/hf --precision int4 --logits last --out gsm8k-int4
    """
    from converters.widths import width_warning
    from seap_export.families import model_spec
    from seap_export.pipeline.convert import GENAI_CONFIG, convert_folder
    from seap_export.pipeline.outputs import write_whole
    from seap_export.sources.config import read_json

    form = form_of(options)
    spec = model_spec(read_json(folder / "config.json"))
    if slow := width_warning(spec, form):
        console.warn(slow)
    with (
        write_whole(out, marker=GENAI_CONFIG, force=force) as target,
        console.step("writing ONNX", len(spec.layers)) as advance,
    ):
        convert_folder(folder, target, form, advance)
    size = sum(path.stat().st_size for path in out.iterdir())
    console.result({"folder": str(out), "bytes": size}, f"{out}: {megabytes(size)}")
