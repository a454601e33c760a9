"""Makes a mixture of experts that talks, in the form of Mixtral, out of a small dense model.

    python tests/benchmarks talking_mixture SmolLM2-135M-Instruct.Q4_1.gguf FOLDER \
        --text wikitext=wikitext2_validation.parquet --text gsm8k=gsm8k.toml

The neurons of each MLP are divided into experts of one size by the tokens on which they are active (MoEfication,
Zhang et al. 2022, arXiv 2110.01786). The router is fitted to how much each expert writes, and so sharply that the last
expert of a token counts for little: if rounding swaps it for another, little changes. Then the experts are scaled and
fitted to the dense model layer by layer, and the whole is distilled for a few steps, as variants are.
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

from seap_export.common.json_file import write_json
from seap_export.corpus import parse_tasks, split_samples
from seap_export.model.families import Attention, Experts, Mlp, ModelSpec, model_spec, names
from seap_export.model.layers.batches import length_buckets
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.hidden_states import HiddenStates
from seap_export.model.layers.layer import DecoderLayer
from seap_export.model.layers.sublayers.experts import expert_outputs, routing_weights
from seap_export.model.sources.open import open_source
from seap_export.model.sources.source import Source
from seap_export.pruning.distillation.adam import Adam
from seap_export.pruning.distillation.layers import TrainedLayers
from seap_export.pruning.distillation.objectives import Imitation, OuterTensors
from seap_export.pruning.distillation.student import Student
from seap_export.pruning.distillation.texts import batches_of, training_steps
from seap_export.pruning.shrink.expert_refit import ExpertFit
from seap_export.pruning.shrink.write import write_weights
from validation.prompts import tokenize_prompts

#: Experts of each layer, which divide its neurons, and how many of them compute a token.
_EXPERTS, _PER_TOKEN = 16, 8
Tensors = Mapping[str, torch.Tensor]
#: Tokens by which neurons are grouped and routers fitted, and rounds of the grouping.
_GROUPED_TOKENS, _ROUNDS = 4096, 12
#: The router's weights are fitted to this power of the energies; steps of the fit, and its ridge.
_SHARPNESS, _ROUTER_STEPS, _ROUTER_RIDGE = 5, 100, 0.1
_RIDGE, _RATE = 5.0, 5e-4


def balanced_groups(features: torch.Tensor, groups: int) -> torch.Tensor:
    """Divides vectors, [vectors, width], into groups of one size, by k-means under cosine similarity: their numbers.

    In each round, vectors choose in the order of how much they prefer one group, as long as there is room in it.
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


def _config(source: Source) -> dict[str, Any]:
    return {
        **source.config,
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "intermediate_size": source.spec.first(Mlp).intermediate_size // _EXPERTS,
        "num_local_experts": _EXPERTS,
        "num_experts_per_tok": _PER_TOKEN,
        "dtype": str(source.dtype).removeprefix("torch."),
    }


def _fitted(source: Source, spec: ModelSpec, texts: Sequence[Sequence[int]]) -> Iterator[dict[str, torch.Tensor]]:
    """The layers, float32, each fitted to the dense model's output after those before it."""
    batches, embedding = length_buckets(texts, Compute().batch_tokens), source.read_embedding()
    dense, mixed = (HiddenStates.embedded(source.spec, embedding, batches) for _ in range(2))
    for index in range(len(spec.layers)):
        tensors = {name: tensor.float() for name, tensor in source.read_layer(index).items()}
        attention = DecoderLayer(source.spec, index, tensors, only=Attention.output)
        for hidden in (dense, mixed):
            hidden.advance(attention, Attention.output)
        whole, of_all, grouped = _grouped(source.spec, spec, index, tensors, dense)
        layer = DecoderLayer(spec, index, grouped, only=Experts.output)
        exact = DecoderLayer(whole, index, of_all, only=Experts.output)
        experts = spec.layers[index][Experts]
        alike = [torch.ones(batch.num_tokens) for batch in mixed.batches]
        fit, name = ExpertFit(experts, layer, mixed, alike), names.weight(Experts.output, index)
        dense.advance(exact, Experts.output, partial(fit.add, exact))
        grouped[name] = fit.fitted(grouped[name], _RIDGE, lambda weight, _: weight)
        mixed.advance(DecoderLayer(spec, index, grouped, only=Experts.output), Experts.output)
        errors = [(a - b).norm(dim=1) / a.norm(dim=1) for a, b in zip(dense.streams, mixed.streams, strict=True)]
        click.echo(f"layer {index}: {torch.cat(errors).square().mean():.4f} of the stream is lost", err=True)
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

    def layer(router: torch.Tensor, scales: torch.Tensor) -> dict[str, torch.Tensor]:
        written = down[:, order] * scales.repeat_interleave(experts.moe_intermediate_size)
        projections = zip(
            experts.projections,
            (router, *(mlp.weight(name)[order] for name in mlp.spec[Mlp].readers), written),
            strict=True,
        )
        shared = {name: tensors[name] for name in spec.layer_tensors(index) if name in tensors}
        return {**shared, **{names.weight(name, index): weight.contiguous() for name, weight in projections}}

    every = replace(experts, experts_per_token=experts.num_experts)
    whole = replace(spec, layers=tuple(one.changed(experts_per_token=experts.num_experts) for one in spec.layers))
    equal = torch.full((experts.num_experts,), float(experts.num_experts))
    of_all = layer(torch.zeros(experts.num_experts, spec.hidden_size), equal)
    exact = DecoderLayer(whole, index, of_all, only=Experts.output)
    x, after = exact.read(Experts.output, stream), stream + mlp.linear(Mlp.output, channels)
    energies = expert_outputs(exact, every, x).square().sum(2) / after.square().sum(1, keepdim=True)
    router = fitted_router(x, energies)
    weights = routing_weights(x @ router.T, experts)
    scales = (weights * energies).sum(0) / (weights.square() * energies).sum(0).clamp_min(1e-12)
    return whole, of_all, layer(router, scales)


@torch.enable_grad()
def fitted_router(x: torch.Tensor, energies: torch.Tensor) -> torch.Tensor:
    """The router whose weights are nearest, by KL divergence, to a power of the energies, [experts, hidden_size].

    Energies are the squared norms of what experts write of `x`, relative to the hidden states after it, [tokens,
    experts]. A token counts by its energy. A few, mostly the first of a text, have hidden states a hundred times as
    large as others, which one expert writes and another takes away again: a router that misses those fails in a text.
    """
    wanted = (_SHARPNESS * energies.clamp_min(1e-30).log()).softmax(1) * energies.sum(1, keepdim=True) / energies.sum()
    scale = x.square().mean().sqrt()
    router = torch.zeros(energies.shape[1], x.shape[1], requires_grad=True)
    fit = torch.optim.LBFGS([router], max_iter=_ROUTER_STEPS, line_search_fn="strong_wolfe")

    def loss() -> float:
        fit.zero_grad()
        total = _ROUTER_RIDGE * router.square().sum() - (wanted * (x / scale @ router.T).log_softmax(1)).sum()
        total.backward()
        return total.item()

    fit.step(loss)
    return router.detach() / scale


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
    outer = OuterTensors.read(source)
    imitation = Imitation(spec, outer, dense.streams)
    student = Student(spec, outer.embedding, layers, scratch, Compute().device)
    for index, step in enumerate(lessons):
        loss = student.train(step, imitation, Adam(index, len(lessons), _RATE))
        layers.advance()
        click.echo(f"step {index + 1} of {len(lessons)}: KL {loss:.3f} nats", err=True)


@click.command()
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--text", "corpora", multiple=True, required=True, metavar="NAME=CORPUS", help="General texts.")
@click.option("--number", type=int, default=96, show_default=True, help="Texts of each corpus.")
@click.option("--max-length", type=int, default=256, show_default=True, help="Tokens of a text.")
@click.option("--steps", type=int, default=48, show_default=True, help="Training steps, 2048 tokens each.")
def talking_mixture(
    model: str, folder: Path, corpora: tuple[str, ...], number: int, max_length: int, steps: int
) -> None:
    """Write a mixture made of the dense MODEL, whose layers are attention and a gated MLP, into FOLDER."""
    source = open_source(model)
    folder.mkdir(parents=True, exist_ok=True)
    source.write_tokenizer(folder)
    samples = [
        split_samples(task.name, task.texts(), num_samples=number, num_held_out=1, seed=0)
        for task in parse_tasks(corpora)
    ]
    prompts = [sample.text for split in samples for sample in split.calibration]
    texts = tokenize_prompts(folder, prompts, max_tokens=max_length, vocab_size=source.spec.vocab_size)
    config = _config(source)
    spec = model_spec(config)
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        layers = TrainedLayers(Path(scratch), len(spec.layers), in_memory=True)
        layers.begin(_fitted(source, spec, texts))
        _distil(source, spec, layers, texts, steps, Path(scratch))

        def trained(first: int) -> Iterator[Tensors]:
            return ({name: layers[i][name] for name in spec.layer_tensors(i)} for i in range(first, len(spec.layers)))

        write_json(folder / "config.json", config, indent=2, sort_keys=True)
        write_weights(source, spec, trained, folder)
    click.echo(f"{folder}: {_EXPERTS} experts, {_PER_TOKEN} a token, made with {sum(map(len, texts))} tokens")
