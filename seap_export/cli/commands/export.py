"""`seap-export export`: prunes a model for each task and ratio, writes the variants and checks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from seap_export.api.export import ExportOptions, export
from seap_export.api.progress import duration
from seap_export.cli.config import ConfigurableCommand, config_option, set_option
from seap_export.cli.console import Console, megabytes
from seap_export.cli.groups import rare, titled, with_settings
from seap_export.cli.options import options_of, output_options, wide_option
from seap_export.cli.window import Table, prose

if TYPE_CHECKING:
    from seap_export.pipeline.preview import Preview


@click.command("export", cls=ConfigurableCommand)
@with_settings(*options_of(ExportOptions))
@titled("Model and tasks", config_option, *rare(set_option))
@titled("Machine", *rare(wide_option), output_options)
def export_command(console: Console, **options: Any) -> None:
    """Round MODEL, or prune it for each task and ratio; write the files, check them, and say which one to ship.

    MODEL is a Hugging Face folder, a .gguf file or a hub id, OWNER/NAME or OWNER/NAME@REVISION.

    \b
    Examples:
      seap-export export model.gguf --task maths.jsonl --ratio 0 --precision int4 --out rounded
      seap-export export ./SmolLM2-135M --task maths=maths.jsonl --ratio 0.2
      seap-export export HuggingFaceTB/SmolLM2-135M-Instruct --task gsm8k --ratio 0.2 --out pruned
      seap-export export model.gguf --task a=a.txt --task b=b.toml --general --ratio 0.2 --ratio 0.5 --out pruned
      seap-export export ./SmolLM2-135M --task wiki=wiki.txt --ratio 0.2 --format onnx:int4 --format gguf --out both
      seap-export export ./SmolLM2-135M --task wiki=wiki.txt --target-size 60MB --out fitted
      seap-export export --config export.toml
    """
    from seap_export.cli.errors import Failure
    from seap_export.cli.exported import beaten, export_json, export_text, no_gains, step_table

    result = export(**options, progress=console)
    if result.report is None:
        assert result.planned is not None
        console.result(_preview_json(result.planned), _preview_text(result.planned))
        return
    _warn_of_coarse_shapes(console, result.entries)
    for line in (*no_gains(result), *beaten(result)):
        console.warn(line)
    console.say(step_table(result.steps))
    if not result.passed:
        console.text(export_text(result))
        raise Failure(result.failure, result.report.exit_code, export_json(result))
    console.result(export_json(result), export_text(result))


def _warn_of_coarse_shapes(console: Console, variants: Mapping[str, Any]) -> None:
    from seap_export.pruning.plan.choice.solve import RATIO_TOLERANCE

    for name, variant in variants.items():
        achieved = variant["achieved_ratio"]
        if abs(achieved - variant["requested_ratio"]) > RATIO_TOLERANCE:
            console.warn(f"{name}: achieved ratio {achieved:.4f} is the nearest that the model's shapes allow")


def _preview_json(planned: Preview) -> dict[str, Any]:
    values = {
        "variants": planned.variants,
        "disk_about": vars(planned.disk),
        "seconds_about": planned.seconds,
    }
    return values | ({} if planned.candidates is None else {"candidates": planned.candidates})


def _preview_text(planned: Preview) -> str:
    from seap_export.cli.frontier import candidates_text

    what = _variants_text(planned) if planned.candidates is None else candidates_text(planned.candidates)
    needed = planned.disk
    lasting, unfinished, temporary = map(megabytes, (needed.kept, needed.unfinished, needed.temporary))
    disk = f"About {lasting} on the disk; meanwhile up to {unfinished} more, and {temporary} in the temporary folder"
    return "\n".join([what, *map(prose, (disk, _time_text(planned)))])


def _time_text(planned: Preview) -> str:
    """The time of what was measured, and what is left out."""
    if not any(planned.seconds.values()):
        return "Nothing is left to calibrate, rank or refit"
    steps = ", ".join(f"{step} {duration(seconds)}" for step, seconds in planned.seconds.items() if seconds)
    searched = "" if planned.candidates is None else ", with one refit for each task"
    return (
        f"About {duration(sum(planned.seconds.values()))} on this machine, scaled from one timed layer{searched}: "
        f"{steps}. Distillation, rounding and checks come on top"
    )


def _variants_text(planned: Preview) -> str:
    rows = [
        [
            row["variant"],
            ", ".join(f"{folder} {megabytes(size)}" for folder, size in row["to_ship_about"].items()) or "-",
            megabytes(row["bytes_about"]),
            "there already" if row["exists"] else "to make",
            str(row["calibration_texts"]),
            str(row["held_out_texts"]),
            "yes" if row["distillation"] else "no",
        ]
        for row in planned.variants
    ]
    head = ["variant", "to ship, about", "all, about", "", "texts", "held out", "distilled"]
    return Table(head, rows, first=4).text
