"""`seap-export convert`: from a model folder to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seap_export.cli.console import Console, megabytes
from seap_export.cli.options import PathType, force_option, out_option, output_options

__all__ = ["convert_command"]

_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")
_BLOCK_SIZES = ("32", "64", "128")


@click.command("convert")
@click.argument("folder", type=PathType())
@out_option("Folder for model.onnx, its data, the tokenizer and genai_config.json.")
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Execution provider that is to run it.",
)
@click.option(
    "--precision",
    type=click.Choice(_PRECISIONS),
    help="int8 and int4 are of the weights only.  [default: fp32 on cpu, fp16 on cuda]",
)
@click.option(
    "--block-size", type=click.Choice(_BLOCK_SIZES), help="int8 and int4: weights that share a scale.  [default: 32]"
)
@click.option("--asymmetric", is_flag=True, help="int8 and int4: a zero point for each block.")
@click.option("--float-embeddings", is_flag=True, help="int8 and int4: leave the embedding and LM head as they are.")
@click.option(
    "--dialect",
    type=click.Choice(["fused", "standard"]),
    default="fused",
    show_default=True,
    help="ONNX Runtime's fused operators, or those of the ONNX standard alone.",
)
@click.option(
    "--logits",
    type=click.Choice(["all", "last"]),
    default="all",
    show_default=True,
    help="Of all positions, or of each prompt's last token: faster to generate with.",
)
@force_option
@output_options
def convert_command(
    console: Console,
    folder: Path,
    out: Path,
    provider: str,
    precision: str | None,
    dialect: Any,
    logits: Any,
    force: bool,
    **quantization: Any,
) -> None:
    """Write the model in FOLDER, pruned by this tool or dense, as an ONNX graph for ONNX Runtime.

    \b
    Examples:
      seap-export convert pruned/gsm8k-0.2/hf --out gsm8k-onnx
      seap-export convert pruned/gsm8k-0.2/hf --precision int4 --logits last --out gsm8k-int4
    """
    from seap_export.families import model_spec
    from seap_export.pipeline.convert import GENAI_CONFIG, convert_folder
    from seap_export.pipeline.outputs import write_whole
    from seap_export.sources.config import read_json

    chosen = _precision(provider, precision, **quantization)
    spec = model_spec(read_json(folder / "config.json"))
    with (
        write_whole(out, marker=GENAI_CONFIG, force=force) as target,
        console.bar("writing ONNX", len(spec.layers)) as advance,
    ):
        convert_folder(folder, target, advance, precision=chosen, dialect=dialect, logits=logits)
    size = sum(path.stat().st_size for path in out.iterdir())
    console.result({"folder": str(out), "bytes": size}, f"{out}: {megabytes(size)}")


def _precision(provider: Any, name: Any, *, block_size: str | None, asymmetric: bool, float_embeddings: bool) -> Any:
    """The `Precision` of the options.

    Raises:
        UsageError: The provider cannot run it, or an option would change nothing.
    """
    from converters.precision import choose_precision
    from seap_export.errors import UsageError

    name = name or ("fp32" if provider == "cpu" else "fp16")
    given = {"--block-size": block_size, "--asymmetric": asymmetric, "--float-embeddings": float_embeddings}
    if not name.startswith("int") and any(given.values()):
        idle = ", ".join(option for option, value in given.items() if value)
        raise UsageError(f"{idle}: {name} weights are not quantised; add --precision int8 or int4")
    return choose_precision(
        name, provider, block_size=int(block_size or 32), symmetric=not asymmetric, embeddings=not float_embeddings
    )
