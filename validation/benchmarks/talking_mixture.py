"""Makes a mixture of experts that talks, in the form of Mixtral, out of a small dense model.

    python -m validation.benchmarks.talking_mixture SmolLM2-135M-Instruct.Q4_1.gguf FOLDER \
        --text wikitext=wikitext2_validation.parquet --text gsm8k=gsm8k.toml

The neurons of each MLP are divided into experts of one size by the tokens on which they are active (MoEfication,
Zhang et al. 2022, arXiv 2110.01786). The router is fitted to the norm of what each expert writes. Then the experts are
fitted to the dense model layer by layer, and the whole is distilled for a few steps, as variants are. If all experts
compute each token, all weigh alike, and the mixture computes what the dense model does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from seap_export.corpus import parse_tasks, split_samples
from seap_export.distillation.adam import Adam
from seap_export.distillation.layers import TrainedLayers
from seap_export.distillation.student import OuterTensors, Student
from seap_export.distillation.texts import batches_of, training_steps
from seap_export.families import Attention, Experts, Mlp, ModelSpec, model_spec, names
from seap_export.json_file import write_json
from seap_export.layers.batches import length_buckets
from seap_export.layers.compute import Compute
from seap_export.layers.hidden_states import HiddenStates
from seap_export.layers.layer import DecoderLayer
from seap_export.layers.sublayers.experts import expert_outputs
from seap_export.shrink.expert_refit import ExpertFit
from seap_export.shrink.write import write_weights
from seap_export.sources.source import Source, open_source
from validation.prompts import tokenize_prompts

__all__ = ["balanced_groups", "talking_mixture", "write_mixture"]

Tensors = Mapping[str, torch.Tensor]
#: Tokens by which neurons are grouped, and rounds of the grouping.
_GROUPED_TOKENS, _ROUNDS = 2048, 12
#: Standard deviation of the router's products at a token.
_ROUTER_SPREAD = 0.5
_RIDGE = 5.0


def balanced_groups(features: torch.Tensor, groups: int) -> torch.Tensor:
    """Divides vectors into groups of one size, by k-means under cosine similarity; int64 [groups, vectors / groups].

    In each round, vectors choose in the order of how much they prefer one group, as long as there is room in it.

    Args:
        features: float32 [vectors, width].
        groups: How many; it divides the number of vectors.
    """
    size = len(features) // groups
    unit = torch.nn.functional.normalize(features, dim=1)
    order = torch.randperm(len(unit), generator=torch.Generator().manual_seed(0))
    assigned = order.view(groups, size)
    for _ in range(_ROUNDS):
        likeness = unit @ torch.nn.functional.normalize(unit[assigned].mean(1), dim=1).T
        best, wishes = likeness.topk(min(2, groups), 1).values, likeness.argsort(1, descending=True).tolist()
        members: list[list[int]] = [[] for _ in range(groups)]
        for vector in (best[:, -1] - best[:, 0]).argsort(stable=True).tolist():
            next(members[group] for group in wishes[vector] if len(members[group]) < size).append(vector)
        assigned = torch.tensor([sorted(group) for group in members])
    return assigned


def write_mixture(
    source: Source, folder: Path, texts: Sequence[Sequence[int]], experts: int, per_token: int, steps: int
) -> None:
    """Writes a mixture with a tokenizer into an existing folder.

    Args:
        source: The dense model, whose layers are attention and a gated MLP.
        folder: Where to.
        texts: Token ids of general texts.
        experts: Experts of each layer; they divide its neurons.
        per_token: How many of them compute a token.
        steps: Training steps at most; there are no more than the texts have.
    """
    config = _config(source, experts, per_token)
    spec = model_spec(config)
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        layers = TrainedLayers(Path(scratch), len(spec.layers), in_memory=True)
        layers.begin(_fitted(source, spec, texts))
        _distil(source, spec, layers, texts, steps, Path(scratch))

        def trained(first: int) -> Iterator[Tensors]:
            return ({name: layers[i][name] for name in spec.layer_tensors(i)} for i in range(first, len(spec.layers)))

        write_json(folder / "config.json", config, indent=2, sort_keys=True)
        source.write_tokenizer(folder)
        write_weights(source, spec, trained, folder)


def _config(source: Source, experts: int, per_token: int) -> dict[str, Any]:
    neurons = source.spec.first(Mlp).intermediate_size
    return {
        **source.config,
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "intermediate_size": neurons // experts,
        "num_local_experts": experts,
        "num_experts_per_tok": per_token,
        "dtype": str(source.dtype).removeprefix("torch."),
    }


def _fitted(source: Source, spec: ModelSpec, texts: Sequence[Sequence[int]]) -> Iterator[dict[str, torch.Tensor]]:
    """The layers, float32, each fitted to the dense model's output after those before it."""
    batches, embedding = length_buckets(texts, Compute().batch_tokens), source.read_embedding()
    dense, mixed = (HiddenStates.embedded(source.spec, embedding, batches) for _ in range(2))
    weights = [torch.ones(batch.num_tokens) for batch in batches]
    for index in range(len(spec.layers)):
        tensors = {name: tensor.float() for name, tensor in source.read_layer(index).items()}
        attention = DecoderLayer(source.spec, index, tensors, only=Attention.output)
        for hidden in (dense, mixed):
            hidden.advance(attention, Attention.output)
        whole, of_all, grouped = _grouped(source.spec, spec, index, tensors, dense)
        layer = DecoderLayer(spec, index, grouped, only=Experts.output)
        exact = DecoderLayer(whole, index, of_all, only=Experts.output)
        experts = spec.layers[index][Experts]
        fit, name = ExpertFit(experts, layer, mixed, weights), names.weight(Experts.output, index)
        dense.advance(exact, Experts.output, partial(fit.add, exact))
        grouped[name] = fit.fitted(grouped[name], _RIDGE, lambda weight, _: weight)
        mixed.advance(DecoderLayer(spec, index, grouped, only=Experts.output), Experts.output)
        lost = sum(float((a - b).square().sum()) for a, b in zip(dense.streams, mixed.streams, strict=True))
        size = sum(float(stream.square().sum()) for stream in dense.streams)
        click.echo(f"layer {index}: {lost / size:.4f} of the stream is lost", err=True)
        yield grouped


def _grouped(
    dense: ModelSpec, spec: ModelSpec, index: int, tensors: Tensors, hidden: HiddenStates
) -> tuple[ModelSpec, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A mixture whose experts all compute each token, its layer, and the layer of `spec`; all in groups of neurons."""
    experts = spec.layers[index][Experts]
    step = max(1, -(-sum(batch.num_tokens for batch in hidden.batches) // _GROUPED_TOKENS))
    stream = torch.cat([part[::step] for part in hidden.streams])
    mlp = DecoderLayer(dense, index, tensors, only=Mlp.output)
    channels, down = mlp.channels(Mlp.output, stream, hidden.batches[0]), mlp.weight(Mlp.output)
    order = balanced_groups((channels.abs() - channels.abs().mean(0)).T, experts.num_experts).flatten()

    def layer(router: torch.Tensor, scale: int) -> dict[str, torch.Tensor]:
        projections = zip(
            experts.projections,
            (router, *(mlp.weight(name)[order] for name in mlp.spec[Mlp].readers), scale * down[:, order]),
            strict=True,
        )
        shared = {name: tensors[name] for name in spec.layer_tensors(index) if name in tensors}
        return {**shared, **{names.weight(name, index): weight.contiguous() for name, weight in projections}}

    every = replace(experts, experts_per_token=experts.num_experts)
    whole = replace(spec, layers=tuple(one.changed(experts_per_token=experts.num_experts) for one in spec.layers))
    of_all = layer(torch.zeros(experts.num_experts, spec.hidden_size), experts.num_experts)
    if experts == every:
        return whole, of_all, dict(of_all)
    exact = DecoderLayer(whole, index, of_all, only=Experts.output)
    x = exact.read(Experts.output, stream)
    return whole, of_all, layer(_router(x, expert_outputs(exact, every, x)), experts.experts_per_token)


def _router(x: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
    """The least-squares fit to the logarithm of the norms of what experts write, [experts, hidden_size]."""
    sizes = written.norm(dim=2).clamp_min(1e-12).log().double()
    wanted = sizes - sizes.mean(1, keepdim=True)
    square = x.double().T @ x.double()
    square.diagonal().add_(1e-3 * square.trace() / len(square))
    router = torch.linalg.solve(square, x.double().T @ wanted).T
    return (router * _ROUTER_SPREAD / (x.double() @ router.T).std(1).mean()).float()


@torch.no_grad()
def _distil(
    source: Source, spec: ModelSpec, layers: TrainedLayers, texts: Sequence[Sequence[int]], steps: int, scratch: Path
) -> None:
    lessons = training_steps([(ids, 1.0) for ids in texts], Compute())[:steps]
    if not lessons:
        return
    every = batches_of(training_steps([(ids, 1.0) for ids in texts], Compute()))
    dense = HiddenStates.embedded(source.spec, source.read_embedding(), every)
    for index in range(len(source.spec.layers)):
        layer = DecoderLayer(source.spec, index, source.read_layer(index))
        for output in layer.spec.outputs:
            dense.advance(layer, output)
    outer = OuterTensors(source.read_embedding(), source.read_norm(), source.read_head())
    student = Student(spec, outer, layers, scratch, Compute().device)
    for index, step in enumerate(lessons):
        loss = student.train(step, dense.streams, Adam(index, len(lessons)))
        layers.advance()
        click.echo(f"step {index + 1} of {len(lessons)}: KL {loss:.3f} nats", err=True)


@click.command()
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--text", "corpora", multiple=True, required=True, metavar="NAME=CORPUS", help="General texts.")
@click.option("--number", type=int, default=96, show_default=True, help="Texts of each corpus.")
@click.option("--max-length", type=int, default=256, show_default=True, help="Tokens of a text.")
@click.option("--experts", type=click.IntRange(1), default=16, show_default=True)
@click.option("--per-token", type=click.IntRange(1), default=8, show_default=True)
@click.option("--steps", type=int, default=48, show_default=True, help="Training steps, 2048 tokens each.")
def talking_mixture(
    model: str,
    folder: Path,
    corpora: tuple[str, ...],
    number: int,
    max_length: int,
    experts: int,
    per_token: int,
    steps: int,
) -> None:
    """Write a mixture made of the dense MODEL into FOLDER."""
    source = open_source(model)
    folder.mkdir(parents=True, exist_ok=True)
    source.write_tokenizer(folder)
    samples = [
        split_samples(task.name, task.texts(), num_samples=number, num_held_out=1, seed=0)
        for task in parse_tasks(corpora)
    ]
    prompts = [sample.text for split in samples for sample in split.calibration]
    texts = tokenize_prompts(folder, prompts, max_tokens=max_length, vocab_size=source.spec.vocab_size)
    write_mixture(source, folder, texts, experts, per_token, steps)
    click.echo(f"{folder}: {experts} experts, {per_token} for each token, made with {sum(map(len, texts))} tokens")


if __name__ == "__main__":
    talking_mixture()
