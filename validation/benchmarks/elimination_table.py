"""Time, peak memory and excess loss of the elimination of neurons by width, as a Markdown table.

    python -m validation.benchmarks.elimination_table
    python -m validation.benchmarks.elimination_table --size 1536x576 --calibration DIR/calibration/piqa --model MODEL

The activations are made up, but like those of a SwiGLU: products of two random projections of tokens whose variances
fall as a power, with channels of unequal size. With `--model` and `--calibration` they are those of a layer. A loss's
excess is over the loss of an elimination that looks again after every 64th part of the neurons, or after every neuron
where there are no more than 2,000, when 20, 50 or 80 % of the neurons are removed.

Processor time is that of all threads; unlike the wall time, it hardly depends on what else the machine does. The peak
is that of the whole process, with the covariance in float64 that the elimination is given.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from torch.nn import functional

from seap_export.activations.covariance import CovarianceAccumulator
from seap_export.activations.statistics import Calibration
from seap_export.families import names
from seap_export.memory import peak_memory, reset_peak_memory
from seap_export.plan.elimination import eliminate_neurons
from seap_export.sources.source import open_source
from validation.benchmarks.process import megabytes

__all__ = ["elimination_table"]

_SIZES = ("1536x576", "4864x896", "8192x2048", "11008x4096", "14336x4096")
_REMOVED = (0.2, 0.5, 0.8)
_CAREFUL_FRACTION, _ONE_BY_ONE_UP_TO = 1 / 64, 2000
_RIDGE = 1.0


@dataclass(frozen=True)
class _Row:
    """Figures of one width; `excess` by the fraction removed, None where there is nothing to compare with."""

    neurons: int
    hidden: int
    tokens: int
    wall_s: float
    processor_s: float
    peak_bytes: int | None
    loss: dict[str, float]
    excess: dict[str, float] | None


@dataclass(frozen=True)
class _Case:
    """A down_proj, and what makes the covariance of its input anew for every run."""

    weight: torch.Tensor
    covariance: Callable[[], torch.Tensor]
    tokens: int


@click.command()
@click.option("--size", "sizes", multiple=True, default=_SIZES, show_default=True, metavar="NEURONSxHIDDEN")
@click.option("--tokens", type=click.IntRange(2), default=4096, show_default=True)
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Runs of each size; the median.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="Threads of torch.")
@click.option("--compare-up-to", type=int, default=11008, show_default=True, help="Most neurons for the excess loss.")
@click.option("--model", help="Take the weights of this model's layer instead of the sizes.")
@click.option("--calibration", type=click.Path(path_type=Path), help="A task's statistics of that model.")
@click.option("--layer", type=int, default=0, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the figures to this file.")
def elimination_table(
    sizes: tuple[str, ...],
    tokens: int,
    runs: int,
    threads: int,
    compare_up_to: int,
    model: str | None,
    calibration: Path | None,
    layer: int,
    json_file: Path | None,
) -> None:
    """Print the table."""
    if (model is None) != (calibration is None):
        raise click.UsageError("give both --model and --calibration, or neither")
    torch.set_num_threads(threads)
    if model is not None and calibration is not None:
        cases = [lambda: _real(model, calibration, layer)]
    else:
        cases = [lambda size=size: _made_up(*_parsed(size), tokens) for size in sizes]  # type: ignore[misc]
    click.echo(
        "| neurons | hidden | tokens | time, s | processor time, s | peak | excess loss at "
        + ", ".join(f"{part:.0%}" for part in _REMOVED)
        + " removed |\n|"
        + " --- |" * 7
    )
    rows = []
    for case in cases:
        rows.append(_measured(case(), runs, compare_up_to))
        click.echo(_line(rows[-1]))
    if json_file:
        json_file.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", "utf-8", newline="\n")


def _parsed(size: str) -> tuple[int, int]:
    try:
        neurons, hidden = (int(part) for part in size.split("x"))
    except ValueError as error:
        raise click.UsageError(f"'{size}' is not a size; give one such as 1536x576") from error
    return neurons, hidden


def _made_up(neurons: int, hidden: int, tokens: int) -> _Case:
    generator = torch.Generator().manual_seed(neurons)
    stream = torch.randn(tokens, hidden, generator=generator) * torch.arange(1, hidden + 1).pow(-0.5)
    stream /= stream.square().sum(1).mean().sqrt()
    gate, up = (stream @ torch.randn(hidden, neurons, generator=generator) for _ in range(2))
    inputs = functional.silu(2.0 * gate).mul_(up)
    inputs *= torch.randn(neurons, generator=generator).mul_(0.7).exp_()
    weight = torch.randn(hidden, neurons, generator=generator) / neurons**0.5
    return _Case(weight, lambda: _covariance(inputs), tokens)


def _covariance(inputs: torch.Tensor) -> torch.Tensor:
    sums = CovarianceAccumulator()
    sums.update(inputs)
    return sums.covariance()


def _real(model: str, folder: Path, layer: int) -> _Case:
    source, calibration = open_source(model), Calibration(folder)
    name = names.weight("down_proj", layer)
    weight = source.reader.read([name])[name]
    return _Case(weight, lambda: calibration.covariance(layer, "down_proj"), calibration.record.num_tokens)


def _measured(case: _Case, runs: int, compare_up_to: int) -> _Row:
    hidden, neurons = case.weight.shape
    walls, processors, peaks = [], [], []
    for _ in range(runs):
        covariance = case.covariance()
        reset_peak_memory()
        wall, processor = time.perf_counter(), time.process_time()
        _, loss = eliminate_neurons(case.weight, covariance, _RIDGE / case.tokens)
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
        peaks.append(peak_memory())
        del covariance
    losses = {f"{part:g}": float(loss[round(neurons * (1 - part))]) for part in _REMOVED}
    excess = None
    if neurons <= compare_up_to:
        fraction = 0.0 if neurons <= _ONE_BY_ONE_UP_TO else _CAREFUL_FRACTION
        _, least = eliminate_neurons(case.weight, case.covariance(), _RIDGE / case.tokens, fraction)
        excess = {part: own / float(least[round(neurons * (1 - float(part)))]) - 1 for part, own in losses.items()}
    known = [peak for peak in peaks if peak is not None]
    return _Row(
        neurons,
        hidden,
        case.tokens,
        statistics.median(walls),
        statistics.median(processors),
        max(known) if known else None,
        losses,
        excess,
    )


def _line(row: _Row) -> str:
    excess = "not measured" if row.excess is None else ", ".join(f"{own:+.2%}" for own in row.excess.values())
    return (
        f"| {row.neurons} | {row.hidden} | {row.tokens} | {row.wall_s:.1f} | {row.processor_s:.1f} "
        f"| {megabytes(row.peak_bytes)} | {excess} |"
    )


if __name__ == "__main__":
    sys.exit(elimination_table())
