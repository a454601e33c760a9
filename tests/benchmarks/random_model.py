"""Writes a model with random weights in bfloat16, shard by shard, to measure where no weights are at hand.

    python tests/benchmarks random_model llama-3.2-1b FOLDER
    python tests/benchmarks random_model llama-2-7b FOLDER --layers 8

Time, memory and disk depend on shapes and hardly on weights; what such a model says means nothing. In two things the
weights are like trained ones: hidden states stay small through any number of layers, and the channels that calibration
observes vary by very different amounts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from benchmarks.shapes import SHAPES, Shape
from seap_export.model.families.names import OUTPUTS
from seap_export.model.sources.stored import StoredForm
from seap_export.model.sources.tensor_writer import SafetensorsWriter

#: Standard deviation of the weights, Llama's own `initializer_range`.
_SPREAD = 0.02
#: Standard deviation of the logarithm of what each channel of v_proj and up_proj is multiplied by. So 1 % of the
#: channels vary 16 times as much as the middle one, or more; in SmolLM2-135M's layers it is 4 to 29 times.
_CHANNEL_SPREAD = 0.6
_SPECIAL = ("<unk>", "<s>", "</s>")


def write_random_model(folder: Path, shape: Shape, seed: int = 0) -> None:
    """Writes config, tokenizer and weights; one tensor is in memory at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_byte_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(shape.config, indent=1) + "\n", "utf-8", newline="\n")
    generator, weight_map, form = torch.Generator().manual_seed(seed), {}, StoredForm(shape.spec)
    plain = {tensor: name for name in shape.spec.tensors() for tensor in form.holders([name])}
    for name, tensors in _shards(shape, form):
        with SafetensorsWriter(folder / name, tensors, torch.bfloat16) as writer:
            for tensor, size in tensors.items():
                writer.write(tensor, _random(plain[tensor], size, shape.layers, generator))
                weight_map[tensor] = name
    index = {"metadata": {"total_size": shape.weight_bytes}, "weight_map": weight_map}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index, indent=1) + "\n", "utf-8", newline="\n")


def _shards(shape: Shape, form: StoredForm) -> Iterator[tuple[str, Mapping[str, tuple[int, ...]]]]:
    """A file for each layer, and one for what is outside of the layers: the tensors in it with their shapes."""
    everything, spec = dict(form.shapes), shape.spec
    number = shape.layers + 1
    for layer in range(shape.layers):
        tensors = {name: everything.pop(name) for name in form.holders(spec.layer_tensors(layer))}
        yield f"model-{layer + 1:05}-of-{number:05}.safetensors", tensors
    yield f"model-{number:05}-of-{number:05}.safetensors", everything


def _random(name: str, size: tuple[int, ...], layers: int, generator: torch.Generator) -> torch.Tensor:
    """Ones for a norm, else normally distributed weights.

    What the layers add to the residual stream is scaled as in GPT-2 (Radford et al. 2019, section 2.3), so that the
    stream's size does not depend on the number of layers.
    """
    if len(size) == 1:
        return torch.ones(size)
    weight = torch.empty(size, dtype=torch.float32).normal_(0.0, _SPREAD, generator=generator)
    if any(output in name for output in OUTPUTS):
        weight /= (2 * layers) ** 0.5
    if "v_proj" in name or "up_proj" in name:
        weight *= torch.empty(size[0], 1).log_normal_(0.0, _CHANNEL_SPREAD, generator=generator)
    return weight


def _write_byte_tokenizer(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*_SPECIAL, *alphabet]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=_SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    special = dict(zip(("unk_token", "bos_token", "eos_token"), _SPECIAL, strict=True))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8", newline="\n")


def _sizes(command: Callable[..., None]) -> Callable[..., None]:
    for name in reversed(SHAPES["llama-2-7b"].sizes):
        command = click.option(name, type=click.IntRange(1), help="Instead of the named model's.")(command)
    return command


@click.command()
@click.argument("name", type=click.Choice(list(SHAPES)))
@click.argument("folder", type=click.Path(path_type=Path))
@_sizes
@click.option("--seed", type=int, default=0, show_default=True)
def random_model(name: str, folder: Path, seed: int, **sizes: Any) -> None:
    """Write a model in the shape of NAME into FOLDER."""
    shape = replace(SHAPES[name], **{key: size for key, size in sizes.items() if size is not None})
    write_random_model(folder, shape, seed)
    click.echo(f"{folder}: {shape.weight_bytes / 1e9:.1f} GB")
