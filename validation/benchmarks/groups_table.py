"""What preferred numbers of heads in a group cost, as a Markdown table.

    python -m validation.benchmarks.groups_table MODEL --calibration DIR/calibration/reading --avoid 2

For each ratio and tolerance: by how much the plan's loss, the sum of sensitivity × loss over all layers, is higher
than without a tolerance, and how many layers keep the number of heads in a group that is avoided. Nothing is pruned.
Heads must have 64, 128 or 256 channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from seap_export.activations.mixture import Mixture
from seap_export.activations.statistics import Calibration
from seap_export.layers.compute import Compute
from seap_export.plan.groups import preferring_groups
from seap_export.plan.plan import LayerPlan
from seap_export.plan.planning import plan_variant, rank
from seap_export.plan.ranked import Ranking
from seap_export.plan.recipes import Target, open_recipe
from seap_export.sources.source import Source, open_source

__all__ = ["groups_table"]

_RATIOS = (0.1, 0.2, 0.3, 0.5)
_TOLERANCES = (0.0, 0.01, 0.05, 0.1, 10.0)


@click.command()
@click.argument("model")
@click.option("--calibration", required=True, type=click.Path(path_type=Path), help="A task's statistics.")
@click.option("--avoid", type=int, required=True, help="The number of heads in a group that is not preferred.")
def groups_table(model: str, calibration: Path, avoid: int) -> None:
    """Print the table; MODEL is a model folder."""
    source, own_task = open_source(model), Calibration(calibration)
    statistics = Mixture(own_task.record.task, {own_task.record.task: 1.0}, {own_task.record.task: own_task})
    with TemporaryDirectory() as folder:
        ranking = rank(source, statistics, open_recipe(target=Target("cuda")), Path(folder), compute=Compute())
    click.echo("| ratio | " + " | ".join(f"tolerance {own:g}" for own in _TOLERANCES) + " |")
    click.echo("| --- |" + " --- |" * len(_TOLERANCES))
    for ratio in _RATIOS:
        plans = [_layers(source, statistics, ranking, ratio, own, avoid) for own in _TOLERANCES]
        least = _loss(ranking, plans[0])
        cells = [f"{_loss(ranking, own) / least - 1:+.2%}, {_avoided(own, avoid)} layers" for own in plans]
        click.echo(f"| {ratio} | " + " | ".join(cells) + " |")


def _layers(
    source: Source, statistics: Mixture, ranking: Ranking, ratio: float, tolerance: float, avoid: int
) -> tuple[LayerPlan, ...]:
    others = set(range(1, 1 + max(own.heads_per_group for own in source.spec.layers))) - {avoid}
    weighed = replace(ranking, options=preferring_groups(source.spec, ranking.options, tolerance, others))
    settings = replace(open_recipe(target=Target("cuda")), group_tolerance=0.0)
    return plan_variant(source, statistics, weighed, settings, ratio).layers


def _loss(ranking: Ranking, layers: Sequence[LayerPlan]) -> float:
    return sum(
        weight[0] * next(option.loss for option in own.attention if option.heads == layer.heads)
        + weight[1] * float(own.neuron_loss[len(layer.neurons)])
        for own, layer, weight in zip(ranking.options, layers, ranking.sensitivity.tolist(), strict=True)
    )


def _avoided(layers: Sequence[LayerPlan], avoid: int) -> int:
    return sum(len(own.heads) == avoid * len(own.kv_groups) and avoid < own.num_heads_per_group for own in layers)


if __name__ == "__main__":
    groups_table()
