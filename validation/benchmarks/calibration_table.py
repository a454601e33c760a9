"""Time of calibration against the usual way of collecting activation statistics, as a Markdown table.

    python -m validation.benchmarks.calibration_table MODEL --task piqa=piqa.toml --task gsm8k=gsm8k.toml

The usual way is that of the SEAP paper's code: it runs the whole model with its LM head, one text at a time, with
hooks on four inputs of every layer (attention, o_proj, MLP, down_proj), and updates the statistics at each call. The
other two run layer by layer in batches of texts of similar length: one computes only moments, which is what the
paper's scores need, and the other everything that `calibrate` keeps, which adds covariances and the sensitivity of the
residual stream. All run in one process, in turn, after a warm-up on a few texts, with the same threads, on the same
token ids.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from seap_export.activations.calibrate import collect_statistics
from seap_export.activations.moments import MomentAccumulator
from seap_export.corpus import parse_task, split_samples
from seap_export.layers.batches import length_buckets
from seap_export.layers.halves import HALVES, Half
from seap_export.layers.hidden_states import HiddenStates
from seap_export.layers.layer import DecoderLayer
from seap_export.sources.source import Source, open_source
from validation.prompts import tokenize_prompts

__all__ = ["calibration_table"]

_SITES = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
_WARM_UP_TEXTS = 4


@click.command()
@click.argument("model")
@click.option("--task", "tasks", multiple=True, required=True, metavar="NAME=FILE")
@click.option("--samples", type=int, default=200, show_default=True, help="Calibration texts per task.")
@click.option("--runs", type=int, default=3, show_default=True, help="Runs of each way.")
@click.option("--threads", type=int, default=torch.get_num_threads(), show_default=True, help="Threads of torch.")
def calibration_table(model: str, tasks: tuple[str, ...], samples: int, runs: int, threads: int) -> None:
    """Print the table; MODEL is a model folder."""
    torch.set_num_threads(threads)
    source = open_source(model)
    dense = _load(Path(model))
    click.echo(
        "| task | tokens | usual way, median s | moments alone, median s | times faster | `calibrate`, median s "
        "| times faster |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for spec in tasks:
        task = parse_task(spec)
        split = split_samples(task.name, task.texts(), num_samples=samples, num_held_out=0, seed=0)
        texts = [sample.text for sample in split.calibration]
        token_ids = tokenize_prompts(Path(model), texts, max_tokens=512, vocab_size=source.spec.vocab_size)
        ways = [partial(_usual_way, dense), partial(_moments, source), partial(_calibrate, source)]
        usual, moments, ours = _in_turn(ways, token_ids, runs)
        click.echo(
            f"| {task.name} | {sum(map(len, token_ids))} | {usual:.1f} | {moments:.1f} | {usual / moments:.2f} "
            f"| {ours:.1f} | {usual / ours:.2f} |"
        )


def _load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _in_turn(
    ways: Sequence[Callable[[Sequence[Sequence[int]]], None]], token_ids: Sequence[Sequence[int]], runs: int
) -> list[float]:
    """Median seconds of each way."""
    seconds: list[list[float]] = [[] for _ in ways]
    for way in ways:
        way(token_ids[:_WARM_UP_TEXTS])
    for _ in range(runs):
        for way, own in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            way(token_ids)
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in seconds]


def _calibrate(source: Source, token_ids: Sequence[Sequence[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        collect_statistics(source, token_ids, Path(folder))


@torch.no_grad()
def _moments(source: Source, token_ids: Sequence[Sequence[int]]) -> None:
    table = source.read_outer("embed_tokens")
    hidden = HiddenStates.embedded(source.spec, table, length_buckets(token_ids, 1024))
    for index in range(len(source.spec.layers)):
        layer = DecoderLayer(source.spec, index, source.read_layer(index))
        for half in HALVES:
            _moments_of(layer, half, hidden)


def _moments_of(layer: DecoderLayer, half: Half, hidden: HiddenStates) -> None:
    moments = MomentAccumulator()
    hidden.advance(layer, half, lambda passed: moments.update(passed.channels))
    moments.result()


class _RunningStatistics:
    """Mean, sum of squared deviations and sum of squares of each channel, updated text by text."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.deviations: Any = 0.0
        self.squares: Any = 0.0

    def update(self, values: torch.Tensor) -> None:
        values = values.reshape(-1, values.shape[-1]).float()
        count = self.count + len(values)
        mean = self.mean + (values - self.mean).sum(0) / count
        self.deviations = self.deviations + ((values - self.mean) * (values - mean)).sum(0)
        self.squares = self.squares + values.norm(p=2, dim=0) ** 2
        self.count, self.mean = count, mean


@torch.no_grad()
def _usual_way(model: Any, token_ids: Sequence[Sequence[int]]) -> None:
    hooks = []
    for layer in model.model.layers:
        for site in _SITES:
            running = _RunningStatistics()
            hooks.append(
                layer.get_submodule(site).register_forward_hook(
                    lambda _, inputs, output, own=running: own.update(inputs[0])
                )
            )
    for ids in token_ids:
        model(torch.tensor([list(ids)]), use_cache=False)
    for hook in hooks:
        hook.remove()


if __name__ == "__main__":
    calibration_table()
