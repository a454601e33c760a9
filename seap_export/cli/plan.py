"""`seap-export plan`: shows what pruning would do."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from seap_export.cli.console import Console, megabytes, table
from seap_export.cli.groups import GroupedCommand, option, titled
from seap_export.cli.options import (
    PathType,
    compute_options,
    force_option,
    layout_option,
    model_argument,
    output_options,
    provider_option,
    ratio_option,
    recipe_option,
    weight_option,
)

if TYPE_CHECKING:
    from seap_export.plan.plan import Plan
    from seap_export.sources.source import Source

__all__ = ["plan_command"]


@click.command("plan", cls=GroupedCommand)
@model_argument
@titled(
    "Tasks",
    option(
        "--calibration",
        "calibrations",
        multiple=True,
        required=True,
        type=PathType(),
        help="A task's statistics, OUT/calibration/TASK of `calibrate` or `export`. Repeatable.",
    ),
    weight_option,
)
@titled(
    "How much",
    ratio_option(multiple=False),
    recipe_option,
    layout_option,
    provider_option,
)
@titled(
    "What to write",
    option("--out", type=PathType(), help="Write the plan to this file; without it nothing is written."),
    force_option,
)
@titled("Machine", *compute_options, output_options)
def plan_command(
    console: Console,
    model: str,
    calibrations: tuple[Path, ...],
    weights: tuple[str, ...],
    ratio: float,
    out: Path | None,
    force: bool,
    **options: Any,
) -> None:
    """Show what each layer of MODEL would keep, and the resulting sizes and ratio.

    \b
    Example:
      seap-export plan ./SmolLM2-135M --calibration pruned/calibration/gsm8k --ratio 0.5
    """
    from seap_export.cli.settings import compute_of, plan_settings
    from seap_export.pipeline.mixtures import open_mixture
    from seap_export.pipeline.outputs import write_whole
    from seap_export.plan.plan import write_plan
    from seap_export.plan.planning import plan_variant, rank
    from seap_export.plan.recipes import Target
    from seap_export.plan.solve import check_ratio
    from seap_export.sources.source import open_source

    compute = compute_of(options)
    settings = plan_settings(options, Target(options.pop("provider")))
    source = open_source(model)
    check_ratio(source.spec, ratio, settings.sparsity, settings.align, settings.layout)
    statistics = open_mixture(calibrations, weights)
    with write_whole(out, force=force) if out else nullcontext() as path:
        console.say(f"hashing {source.name}")
        label = f"ranking {statistics.name}"
        with console.step(label, len(source.spec.layers)) as advance, TemporaryDirectory() as folder:
            ranking = rank(source, statistics, settings, Path(folder), advance, compute=compute)
        plan = plan_variant(source, statistics, ranking, settings, ratio)
        if path:
            write_plan(plan, path)
    result = _describe(source, plan)
    console.result(result, _text(result))


def _describe(source: Source, plan: Plan) -> dict[str, Any]:
    dense, shrunk = source.spec, plan.shrunk_spec(source.spec)
    return {
        "task": plan.task,
        "weights": dict(plan.weights),
        "method": plan.method,
        "budget": plan.sparsity.budget,
        "requested_ratio": plan.requested_ratio,
        "achieved_ratio": plan.achieved_ratio,
        "num_parameters": {"dense": dense.num_parameters(), "shrunk": shrunk.num_parameters()},
        "bytes": {
            "hf": shrunk.num_parameters() * source.reader.dtype.itemsize,
            "onnx": shrunk.num_parameters() * 4,
        },
        "layers": [
            {
                "num_attention_heads": own.num_attention_heads,
                "num_key_value_heads": own.num_key_value_heads,
                "intermediate_size": own.intermediate_size,
                "removed": 1.0 - shrunk.prunable_weights(index) / dense.prunable_weights(index),
            }
            for index, own in enumerate(shrunk.layers)
        ],
    }


def _text(result: dict[str, Any]) -> str:
    rows = [
        [
            str(index),
            str(layer["num_attention_heads"]),
            str(layer["num_key_value_heads"]),
            str(layer["intermediate_size"]),
            f"{layer['removed']:.1%}",
        ]
        for index, layer in enumerate(result["layers"])
    ]
    parameters, sizes = result["num_parameters"], result["bytes"]
    return "\n".join(
        [
            table(["layer", "heads", "KV heads", "neurons", "removed"], rows),
            f"{result['task']}, method {result['method']}: ratio requested {result['requested_ratio']:g}, "
            f"achieved {result['achieved_ratio']:.4f} of the attention and MLP {result['budget']}",
            f"parameters {parameters['dense']:,} -> {parameters['shrunk']:,}; weights on disk: "
            f"safetensors {megabytes(sizes['hf'])}, ONNX fp32 {megabytes(sizes['onnx'])}",
        ]
    )
