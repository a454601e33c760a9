"""`seap-export plan`: shows what pruning would do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seap_export.api.export import ExportOptions
from seap_export.cli.console import Console, megabytes
from seap_export.cli.groups import GroupedCommand, option, titled
from seap_export.cli.layer_table import layer_columns, pruned_parts
from seap_export.cli.options import option_of, options_of, output_options, wide_option
from seap_export.cli.values import PathType, Ratio
from seap_export.cli.window import Table, prose
from seap_export.common.providers import OWN_FORMAT
from seap_export.pipeline.request.options import ComputeOptions

if TYPE_CHECKING:
    from seap_export.model.sources.source import Source
    from seap_export.pruning.plan.plan import Plan


@click.command("plan", cls=GroupedCommand)
@option_of(ExportOptions, "model")
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
    option_of(ExportOptions, "weight"),
    option(
        "--task",
        "tasks",
        multiple=True,
        metavar="[NAME=]SOURCE",
        help="The texts of the tasks, as for `export`; --vocabulary goes by them. Repeatable.",
    ),
)
@titled(
    "Size",
    option(
        "--ratio",
        required=True,
        type=Ratio(),
        metavar="R",
        help="Fraction of the attention and MLP weights to remove, such as 0.2 or 20%.",
    ),
    option_of(ExportOptions, "recipe", rare=False),
    *options_of(ExportOptions, "layout", "vocabulary"),
    option_of(ExportOptions, "provider", help="Execution provider of ONNX Runtime that the shapes should suit."),
)
@titled(
    "Output",
    option("--out", type=PathType(), help="Write the plan to this file; without it nothing is written."),
    option_of(ExportOptions, "force"),
)
@titled("Machine", *options_of(ComputeOptions), wide_option, output_options)
def plan_command(
    console: Console,
    model: str,
    calibrations: tuple[Path, ...],
    weight: tuple[str, ...],
    tasks: tuple[str, ...],
    ratio: float,
    vocabulary: str,
    out: Path | None,
    threads: int | None,
    force: bool,
    **options: Any,
) -> None:
    """Show what each layer of MODEL would keep, and the sizes that follow.

    \b
    Examples:
      seap-export plan ./SmolLM2-135M --calibration pruned/calibration/gsm8k --ratio 0.5
      seap-export plan ./SmolLM2-135M --calibration pruned/calibration/gsm8k --ratio 0.5 --vocabulary auto --task gsm8k
    """
    from seap_export.api.memory import warn_of_memory
    from seap_export.api.settings import compute_of
    from seap_export.corpus import parse_tasks
    from seap_export.model.layers.compute import torch_threads
    from seap_export.model.sources.open import open_source
    from seap_export.model.vocabulary.choice import parse_size
    from seap_export.pipeline.plan import plan
    from seap_export.pruning.plan.recipes import Target, open_recipe

    compute = compute_of(ComputeOptions(device=options["device"], memory=options["memory"], threads=threads))
    settings = open_recipe(options["recipe"], layout=options["layout"], target=Target(options["provider"]))
    source = open_source(model)
    warn_of_memory(console, source, compute)
    parsed, size = parse_tasks(tasks), parse_size(vocabulary)
    with torch_threads(threads):
        made = plan(
            source,
            calibrations,
            settings,
            ratio,
            out,
            console,
            weights=weight,
            tasks=parsed,
            vocabulary=size,
            force=force,
            compute=compute,
        )
    result = _describe(source, made)
    console.result(result, _text(result))


def _describe(source: Source, plan: Plan) -> dict[str, Any]:
    dense, shrunk = source.spec, plan.shrunk_spec(source.spec)
    return {
        "task": plan.task,
        "weights": dict(plan.weights),
        "method": plan.method,
        "budget": plan.settings.sparsity.budget,
        "requested_ratio": plan.requested_ratio,
        "achieved_ratio": plan.achieved_ratio,
        "tokens": {"dense": dense.vocab_size, "shrunk": shrunk.vocab_size},
        "num_parameters": {"dense": dense.num_parameters(), "shrunk": shrunk.num_parameters()},
        "bytes": {"hf": shrunk.num_parameters() * source.dtype.itemsize, OWN_FORMAT: shrunk.num_parameters() * 4},
        "layers": [
            {**layer.sizes, "removed": 1.0 - shrunk.prunable_weights(index) / dense.prunable_weights(index)}
            for index, layer in enumerate(shrunk.layers)
        ],
    }


def _text(result: dict[str, Any]) -> str:
    (layer_head, *headings), cells_by_layer = layer_columns(result["layers"])
    removed = (f"{layer['removed']:.1%}" for layer in result["layers"])
    rows = [[number, share, *cells] for share, (number, *cells) in zip(removed, cells_by_layer, strict=True)]
    parameters, sizes, tokens = result["num_parameters"], result["bytes"], result["tokens"]
    tokens_text = (
        "" if tokens["dense"] == tokens["shrunk"] else f"tokens {tokens['dense']:,} -> {tokens['shrunk']:,}; "
    )
    return "\n".join(
        [
            Table([layer_head, "removed", *headings], rows, first=2).text,
            prose(
                f"{result['task']}, method {result['method']}: ratio requested {result['requested_ratio']:g}, "
                f"achieved {result['achieved_ratio']:.4f} of the {pruned_parts(result['layers'])} {result['budget']}"
            ),
            prose(
                f"{tokens_text}parameters {parameters['dense']:,} -> {parameters['shrunk']:,}; weights alone: "
                f"{megabytes(sizes['hf'])} as safetensors, {megabytes(sizes[OWN_FORMAT])} as {OWN_FORMAT} in fp32"
            ),
        ]
    )
