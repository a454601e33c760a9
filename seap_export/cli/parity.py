"""`seap-export parity`: does the ONNX file compute what its model computes?"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from seap_export.cli.console import Console
from seap_export.cli.options import PathType, force_option, output_options, parity_options

__all__ = ["parity_command"]


@click.command("parity")
@click.argument("variant", type=PathType())
@click.option(
    "--prompt-file",
    type=PathType(),
    help="A corpus of prompts (JSONL, Parquet, text; no task file).  [default: the held-out texts of the export]",
)
@click.option("--out", type=PathType(), help="Write the report there; nothing is written without it.")
@click.option(
    "--provider", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Execution provider."
)
@parity_options
@force_option
@output_options
def parity_command(
    console: Console, variant: Path, prompt_file: Path | None, out: Path | None, force: bool, **options: Any
) -> None:
    """Compare VARIANT/onnx with VARIANT/hf in ONNX Runtime; exit code 3 if they differ.

    VARIANT is a folder such as pruned/gsm8k-0.2. The prompt is run at once, then tokens are decoded with the
    cache, for single prompts and for a batch of three padded on the right.

    \b
    Example:
      seap-export parity pruned/gsm8k-0.2
    """
    from seap_export.cli.settings import parity_settings
    from seap_export.errors import ParityFailure
    from seap_export.pipeline.outputs import write_whole
    from seap_export.pipeline.parity import check_parity, prompts_of, write_report

    settings = parity_settings(options)
    prompts = prompts_of(variant, prompt_file, settings.prompts)
    with write_whole(out, force=force) if out else nullcontext() as path:
        report = check_parity(variant, prompts, settings, on_progress=console.say)
        if path:
            write_report(report, path)
    if not report.passed:
        console.text(report.summary().splitlines()[0])
        raise ParityFailure(f"{variant}: {report.failure()}")
    console.result(report.to_json(), report.summary())
