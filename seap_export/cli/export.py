"""`seap-export export`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seap_export.cli.config import ConfigurableCommand, config_option, set_option
from seap_export.cli.console import Console, difference, megabytes, table
from seap_export.cli.form import logits_option, precision_option, rare_form_options
from seap_export.cli.groups import option, settings, titled
from seap_export.cli.options import (
    calibration_options,
    force_option,
    general_option,
    layout_option,
    mixture_options,
    model_argument,
    out_option,
    output_options,
    parity_options,
    provider_option,
    ratio_option,
    recipe_option,
    router_options,
    samples_option,
    task_option,
    threads_option,
)

__all__ = ["export_command"]


@click.command("export", cls=ConfigurableCommand)
@model_argument
@titled("Model and tasks", task_option, general_option, config_option, set_option)
@titled(
    "How much",
    ratio_option(multiple=True),
    recipe_option,
    layout_option,
    samples_option,
)
@titled(
    "What to write",
    out_option("Folder for the artifacts; a second run goes on where the first one stopped."),
    precision_option,
    logits_option("all"),
    force_option,
)
@titled(
    "Checks",
    option("--dry-run", is_flag=True, help="Check the inputs, show what would be made, and write nothing."),
)
@titled("Machine", provider_option, threads_option, output_options)
@settings(*calibration_options, *mixture_options, *router_options, *rare_form_options, *parity_options)
def export_command(
    console: Console,
    model: str,
    tasks: tuple[str, ...],
    ratios: tuple[float, ...],
    out: Path,
    dry_run: bool,
    force: bool,
    **options: Any,
) -> None:
    """Prune MODEL for each task and ratio, write safetensors and ONNX, and check parity.

    MODEL is a Hugging Face folder, a .gguf file or a hub id.

    \b
    Examples:
      seap-export export ./SmolLM2-135M --task gsm8k=gsm8k.jsonl --ratio 0.2 --out pruned
      seap-export export model.gguf --task a=a.txt --task b=b.toml --general --ratio 0.2 --ratio 0.5 --out pruned
      seap-export export ./SmolLM2-135M --task wiki=wiki.txt --recipe flap --ratio 0.5 --out baseline
      seap-export export ./SmolLM2-135M --task wiki=wiki.txt --ratio 0.2 --precision int4 --logits last --out small
      seap-export export --config export.toml
    """
    from seap_export.cli.settings import export_request
    from seap_export.errors import ParityFailure
    from seap_export.pipeline.export import export, preview
    from seap_export.pipeline.manifest import read_manifest
    from seap_export.sources.source import open_source

    request = export_request(tasks, ratios, options)
    source = open_source(model)
    if dry_run:
        rows = preview(source, request, out, force=force)
        console.result(rows, _preview_table(rows))
        return
    dense = source.spec.num_parameters()
    try:
        made = export(source, request, out, force=force, progress=console)
    except ParityFailure:
        variants = read_manifest(out).variants
        console.text(_summary({name: variants[name] for name in request.variants}, dense, out))
        raise
    _warn_of_coarse_shapes(console, made)
    console.result(made, _summary(made, dense, out))


def _warn_of_coarse_shapes(console: Console, made: dict[str, Any]) -> None:
    from seap_export.plan.solve import RATIO_TOLERANCE

    for name, variant in made.items():
        achieved = variant["achieved_ratio"]
        if abs(achieved - variant["requested_ratio"]) > RATIO_TOLERANCE:
            console.warn(f"{name}: achieved ratio {achieved:.4f} is the nearest found for the model's shapes")


def _summary(made: dict[str, Any], dense: int, out: Path) -> str:
    rows = [
        [
            name,
            f"{variant['requested_ratio']:g}",
            f"{variant['achieved_ratio']:.4f}",
            f"{variant['num_parameters'] / 1e6:.1f} M",
            f"{variant['num_parameters'] / dense:.1%}",
            megabytes(variant["bytes"]["hf"]),
            megabytes(variant["bytes"]["onnx"]),
            difference(variant["parity"]["max_abs"]),
            difference(variant["parity"]["mean_kl_nats"]),
            variant["parity"]["verdict"],
        ]
        for name, variant in made.items()
    ]
    header = ["variant", "ratio", "achieved", "parameters", "of dense", "hf", "onnx", "max abs", "mean KL", "parity"]
    return f"{table(header, rows)}\nwritten to {out}"


def _preview_table(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            row["variant"],
            str(row["calibration_texts"]),
            str(row["held_out_texts"]),
            megabytes(row["bytes_about"]),
            "there already" if row["exists"] else "to make",
        ]
        for row in rows
    ]
    return table(["variant", "calibration texts", "held out", "size, about", ""], cells)
