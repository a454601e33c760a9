"""Computes, and does not measure, what an export of a large model takes, as a Markdown table.

    python -m seap_export.pipeline.scale_estimate --shape llama-2-70b --precision int4 --ratio 0.5

The formulas are those of `--dry-run`, the `cost` of each kind of step; docs/contributing/scale.md explains them. The
machine is the one that they were compared with exports on: of others, GPUs among them, nothing was measured.
Tasks are spread over the machines as `--cluster` does: each one's statistics, ranking and variant are independent of
the others'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import click
import torch

from converters.formats import format_class
from seap_export.common.providers import OWN_FORMAT
from seap_export.pipeline.cost.cost import Cost, Disk, Rates, total_disk
from seap_export.pipeline.cost.workload import TokenCounts, Workload
from seap_export.pipeline.steps.joint.validation import ValidationStep
from seap_export.pipeline.steps.single.calibration import CalibrationStep
from seap_export.pipeline.steps.single.formats import FormatStep, ParityStep
from seap_export.pipeline.steps.single.ranking import RankingStep
from seap_export.pipeline.steps.single.variant import PlanStep, ShrinkStep
from validation.reports.markdown import markdown_table
from validation.shapes import SHAPES

_OWN = format_class(OWN_FORMAT)
_COSTS: Mapping[str, Cost] = {
    "calibration": CalibrationStep.cost,
    "ranking": RankingStep.cost,
    "shrinking": ShrinkStep.cost,
    "writing": FormatStep.cost,
    "parity": ParityStep.cost,
    "validation": ValidationStep.cost,
}


@dataclass(frozen=True)
class Machine:
    """A machine.

    Attributes:
        disk: Bytes of a checkpoint read in a second.
    """

    rates: Rates
    disk: float = 1e9


#: What `measure_rates` finds with two threads on the CPU of docs/measurements.md.
TWO_CORES = Machine(Rates(operations=115e9, double_operations=60e9, memory_bytes=29e9))


@dataclass(frozen=True)
class Estimate:
    """The time, memory and disk space that one task takes.

    Attributes:
        memory: Bytes of memory of each step, if they are known.
    """

    seconds: Mapping[str, float]
    memory: Mapping[str, int]
    disk: Disk


def estimate(work: Workload, tokens: int, ratio: float, machine: Machine = TWO_CORES) -> Estimate:
    """The cost of one task and one ratio.

    Args:
        ratio: Fraction of the attention and MLP weights that is removed.
    """
    counts, stored = TokenCounts(tokens, 0), work.spec.num_parameters() * work.stored.itemsize
    seconds, memory = {}, {}
    for name, cost in _COSTS.items():
        cut = 0.0 if name in ("calibration", "ranking") else ratio
        seconds[name] = cost.seconds(counts, cut, work, machine.rates) + cost.reads * stored / machine.disk
        if (needed := cost.memory(counts, cut, work)) is not None:
            memory[name] = needed.host
    disk = total_disk(cost.disk(counts, ratio, work) for cost in (*_COSTS.values(), PlanStep.cost))
    return Estimate(seconds, memory, disk)


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), required=True)
@click.option("--machines", type=click.IntRange(1), default=1, show_default=True)
@click.option("--tasks", type=click.IntRange(1), default=1, show_default=True)
@click.option("--tokens", type=click.IntRange(1), default=32768, show_default=True, help="Of each task's texts.")
@click.option("--ratio", type=click.FloatRange(0, 1, max_open=True), default=0.5, show_default=True)
@click.option("--precision", type=click.Choice(_OWN.precisions), default="int4", show_default=True)
def scale_estimate(shape: str, machines: int, tasks: int, tokens: int, ratio: float, precision: Any) -> None:
    """Print what an export of a Llama model takes; computed, not measured."""
    work = Workload(SHAPES[shape].spec, torch.bfloat16, _OWN(precision))
    taken = estimate(work, tokens, ratio)
    rounds = -(-tasks // machines)
    rows = [(step, seconds, taken.memory.get(step)) for step, seconds in taken.seconds.items()]
    rows.append(("all", sum(taken.seconds.values()), max(taken.memory.values())))
    disk = replace(taken.disk, kept=tasks * taken.disk.kept)
    cells = (
        (step, f"{rounds * seconds / 3600:.2f} h", "" if need is None else _gigabytes(need))
        for step, seconds, need in rows
    )
    click.echo(markdown_table(("step", "time", "memory"), cells))
    click.echo(
        f"\nDisk: {_gigabytes(disk.kept)} stay, at most {_gigabytes(disk.unfinished)} more there and "
        f"{_gigabytes(disk.temporary)} in the temporary folder of each machine."
    )


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB"


if __name__ == "__main__":
    scale_estimate()
