"""`seap-export parity`: does the ONNX file compute what its model computes?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seap_export.cli.console import Console
from seap_export.cli.options import output_options, parity_options

__all__ = ["parity_command"]


@click.command("parity")
@click.argument("variant", type=click.Path(path_type=Path))
@click.option(
    "--prompt-file",
    type=click.Path(path_type=Path),
    help="A corpus of prompts (JSONL, Parquet, text).  [default: the held-out texts of the export]",
)
@parity_options
@output_options
def parity_command(console: Console, variant: Path, prompt_file: Path | None, **options: Any) -> None:
    """Compare VARIANT/onnx with VARIANT/hf in ONNX Runtime; exit code 3 if they differ.

    VARIANT is a folder such as pruned/gsm8k-0.2. The prompt is run at once, then tokens are decoded with the
    cache, for single prompts and for a batch of three padded on the right.

    \b
    Example:
      seap-export parity pruned/gsm8k-0.2
    """
    from seap_export.cli.settings import parity_settings
    from seap_export.pipeline.parity import check_parity, prompts_of

    settings = parity_settings(options)
    prompts = prompts_of(variant, prompt_file, settings.prompts)
    report = check_parity(variant, prompts, settings, on_progress=console.say)
    console.result(report.to_json(), report.summary())
    from validation.parity import raise_if_failed

    raise_if_failed(report)
