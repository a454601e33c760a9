"""Computes, and does not measure, what an export of a large model takes, as a Markdown table.

    python -m seap_export.pipeline.cost.scale_estimate --shape llama-2-70b --machine h100 --precision int4 --ratio 0.5

The formulas are those of `--dry-run` (`pipeline.estimate`, `disk` and `memory_need`), which docs/contributing/scale.md
explains.
Tasks are spread over the machines as `--cluster` does: each one's statistics, ranking and variant are independent of
the others'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import click
import torch

from converters.onnx.format import OnnxFormat
from converters.onnx.precision import PRECISIONS
from seap_export.pipeline.cost.disk import Disk, needed, step_disk
from seap_export.pipeline.cost.memory import Memory, step_memory
from seap_export.pipeline.cost.time import Machine, step_seconds
from seap_export.pipeline.cost.workload import Task, Workload
from validation.shapes import SHAPES

__all__ = ["MACHINES", "Estimate", "Place", "estimate", "scale_estimate"]

STEPS = ("calibration", "ranking", "shrinking", "writing", "parity", "validation")
_ON_DEVICE = ("calibration", "ranking", "shrinking")
#: How often each step reads the dense checkpoint. Calibration goes forwards and backwards; ranking reads o_proj and
#: down_proj, a quarter of a Llama's layers or so.
_READS = {"calibration": 2.0, "ranking": 0.3, "shrinking": 1.0}


@dataclass(frozen=True)
class Place:
    """A machine.

    Attributes:
        host: Rates of its processor.
        device: Rates of its GPU; None: it has none.
        disk: Bytes of a checkpoint read in a second.
    """

    host: Machine
    device: Machine | None = None
    disk: float = 1e9


#: What `measure_machine` finds with two threads on the CPU of docs/measurements.md.
_TWO_CORES = Machine(operations=115e9, double_operations=60e9, memory_bytes=29e9)
#: The processor beside a GPU is taken for eight times as fast.
_HOST = Machine(operations=8 * 115e9, double_operations=8 * 60e9, memory_bytes=8 * 29e9)
#: NVIDIA's peak rates of an H100 SXM without tensor cores, 67 TFLOP/s in float32 and 34 in float64 (a multiply-add is
#: two), and 3.35 TB/s; half of each is reckoned with.
_EFFICIENCY = 0.5
_H100 = Machine(67e12 / 2 * _EFFICIENCY, 34e12 / 2 * _EFFICIENCY, 3.35e12 * _EFFICIENCY)
MACHINES: Mapping[str, Place] = {
    "two-cores": Place(_TWO_CORES),
    "h100": Place(_HOST, _H100, disk=2e9),
}


@dataclass(frozen=True)
class Estimate:
    """What a task takes.

    Attributes:
        seconds: Time of each step.
        memory: Memory of each step that `step_memory` knows.
        disk: The disk that is taken.
    """

    seconds: Mapping[str, float]
    memory: Mapping[str, Memory]
    disk: Disk


def estimate(work: Workload, tokens: int, ratio: float, place: Place) -> Estimate:
    """The cost of one task and one ratio.

    Args:
        work: The model, and what is done.
        tokens: Calibration tokens.
        ratio: Fraction of the attention and MLP weights that is removed.
        place: The machine.
    """
    task, stored = Task(tokens, 0), work.spec.num_parameters() * work.stored.itemsize
    seconds, memory = {}, {}
    for step in STEPS:
        cut = 0.0 if step in ("calibration", "ranking") else ratio
        machine = place.device if place.device is not None and step in _ON_DEVICE else place.host
        seconds[step] = step_seconds(step, task, cut, work, machine) + _READS.get(step, 0.0) * stored / place.disk
        if step != "validation":
            memory[step] = step_memory(step, task, cut, work, on_gpu=place.device is not None)
    return Estimate(seconds, memory, needed(step_disk(step, task, ratio, work) for step in (*STEPS, "plan")))


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), required=True)
@click.option("--machine", type=click.Choice(list(MACHINES)), default="two-cores", show_default=True)
@click.option("--machines", type=click.IntRange(1), default=1, show_default=True)
@click.option("--tasks", type=click.IntRange(1), default=1, show_default=True)
@click.option("--tokens", type=click.IntRange(1), default=32768, show_default=True, help="Of each task's texts.")
@click.option("--ratio", type=click.FloatRange(0, 1, max_open=True), default=0.5, show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default="int4", show_default=True)
def scale_estimate(
    shape: str, machine: str, machines: int, tasks: int, tokens: int, ratio: float, precision: Any
) -> None:
    """Print what an export of a Llama model takes; computed, not measured."""
    work = Workload(SHAPES[shape].spec, torch.bfloat16, OnnxFormat(precision))
    found = estimate(work, tokens, ratio, MACHINES[machine])
    rounds = -(-tasks // machines)
    rows = ["| step | time | host memory | GPU memory |", "| --- | --- | --- | --- |"]
    for step, seconds in found.seconds.items():
        own = found.memory.get(step)
        cells = ("", "") if own is None else (_gigabytes(own.host), _gigabytes(own.device) if own.device else "")
        rows.append(f"| {step} | {_hours(rounds * seconds)} | {cells[0]} | {cells[1]} |")
    total, memory = rounds * sum(found.seconds.values()), found.memory.values()
    device = max(own.device for own in memory)
    rows.append(
        f"| all | {_hours(total)} | {_gigabytes(max(own.host for own in memory))} "
        f"| {_gigabytes(device) if device else ''} |"
    )
    disk = replace(found.disk, kept=tasks * found.disk.kept)
    click.echo("\n".join(rows))
    click.echo(
        f"\nDisk: {_gigabytes(disk.kept)} stay, at most {_gigabytes(disk.unfinished)} more there and "
        f"{_gigabytes(disk.temporary)} in the temporary folder of each machine."
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h"


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB"


if __name__ == "__main__":
    scale_estimate()
