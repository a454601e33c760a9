"""How heads and neurons are weighed against each other: quality of three ways, as a Markdown table.

    seap-export calibrate MODEL --task gsm8k=gsm8k.toml --samples 200 --held-out 32 --out DIR
    python -m validation.benchmarks.quality_table MODEL --calibration DIR/calibration/gsm8k --ratio 0.2 --ratio 0.5

Each cell is KL(dense || shrunk) in nats a token, and perplexity, on the task's held-out texts. All ways have the
same scores (wifv), curve (logistic), ratio and compensation (bias).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from seap_export.activations.statistics import Calibration
from seap_export.families import ModelSpec
from seap_export.plan.choice import LayerChoices
from seap_export.plan.make import make_plan, score_layers
from seap_export.plan.plan import LayerPlan
from seap_export.plan.solve import spread
from seap_export.plan.sparsity import Sparsity
from seap_export.scores import LayerScores
from seap_export.shrink.write import write_shrunk_model
from seap_export.sources.source import Source, open_source

__all__ = ["quality_table"]


class _Alike(LayerChoices):
    """Removes the same fraction of attention and of MLP weights, as nearly as whole heads allow (the paper's way)."""

    def _preferred(self, fitting: list[Any], budget: float) -> Any:
        whole = self._attention[-1].weights
        return min(fitting, key=lambda choice: abs(choice.weights / whole - budget / self.total_weights))


def _shares(spec: ModelSpec, layer: int, scores: LayerScores, align: int) -> LayerChoices:
    """Weighs scores as shares of what the layer's heads, or its neurons, have in all."""
    scale = scores.neurons.sum() / (scores.heads.sum() * spec.head_dim)
    return LayerChoices(spec, layer, LayerScores(scores.heads * scale, scores.neurons), align)


WAYS: dict[str, Callable[[ModelSpec, int, LayerScores, int], LayerChoices]] = {
    "same fraction of both (the paper)": _Alike,
    "scores as shares of the layer's total": _shares,
    "scores as they are (seap-export)": LayerChoices,
}


@click.command()
@click.argument("model")
@click.option("--calibration", "folders", multiple=True, required=True, type=click.Path(path_type=Path))
@click.option("--ratio", "ratios", multiple=True, required=True, type=float)
@click.option("--max-length", type=int, default=256, show_default=True, help="Tokens of an evaluated text.")
def quality_table(model: str, folders: tuple[Path, ...], ratios: tuple[float, ...], max_length: int) -> None:
    """Print the table."""
    source = open_source(model)
    cells: dict[str, list[str]] = {way: [] for way in WAYS}
    calibrations = [Calibration(folder) for folder in folders]
    for calibration in calibrations:
        _measure_task(source, calibration, ratios, max_length, cells)
    header = [f"{calibration.record.task} {ratio:g}" for calibration in calibrations for ratio in ratios]
    click.echo("| | " + " | ".join(header) + " |\n" + "| --- " * (len(header) + 1) + "|")
    for way, row in cells.items():
        click.echo(f"| {way} | " + " | ".join(row) + " |")


def _measure_task(
    source: Source, calibration: Calibration, ratios: Sequence[float], max_length: int, cells: dict[str, list[str]]
) -> None:
    sparsity, align = Sparsity(), 16
    scores = score_layers(source, calibration, "wifv")
    whole = make_plan(
        source, calibration, scores, score="wifv", ratio=0.0, sparsity=sparsity, align=align, compensation="bias"
    )
    texts = [sample["prompt"] + sample["completion"] for sample in calibration.record.held_out]

    def shrunk(layers: tuple[LayerPlan, ...]) -> _Variant:
        with tempfile.TemporaryDirectory() as folder:
            write_shrunk_model(source, replace(whole, layers=layers), calibration, Path(folder))
            return _Variant(Path(folder), texts, max_length)

    dense = shrunk(whole.layers)
    for ratio in ratios:
        for way, make in WAYS.items():
            choices = [make(source.spec, index, own, align) for index, own in enumerate(scores)]
            layers, achieved = spread(choices, sparsity.curve(len(choices)), ratio)
            kl, perplexity = shrunk(layers).against(dense)
            cells[way].append(f"{kl:.3f} / {perplexity:.1f}")
            click.echo(f"{calibration.record.task} {ratio:g} {way}: achieved {achieved:.4f}", file=sys.stderr)


class _Variant:
    """A model and what it predicts for the held-out texts, one text at a time."""

    def __init__(self, folder: Path, texts: Sequence[str], max_length: int) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        self._ids = [torch.tensor([tokenizer(text)["input_ids"][:max_length]]) for text in texts]
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def log_probabilities(self, index: int) -> torch.Tensor:
        """Of every token after each position of a text, [length, vocabulary]."""
        return self._model(self._ids[index]).logits[0].log_softmax(-1)

    def against(self, dense: _Variant) -> tuple[float, float]:
        """Mean KL(dense || this) over all positions, and perplexity over all next tokens."""
        kl = loss = 0.0
        for index, ids in enumerate(self._ids):
            p, q = dense.log_probabilities(index), self.log_probabilities(index)
            kl += float((p.exp() * (p - q)).sum())
            loss -= float(q[:-1].gather(1, ids[0, 1:, None]).sum())
        positions = sum(ids.shape[1] for ids in self._ids)
        return kl / positions, float(torch.tensor(loss / (positions - len(self._ids))).exp())


if __name__ == "__main__":
    quality_table()
