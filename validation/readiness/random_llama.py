"""Writes a Llama model with random weights in bfloat16, shard by shard, to measure speed where no weights are at hand.

    python -m validation.readiness.random_llama FOLDER

The default shape is that of Llama-2-7B (13.5 GB). Speed depends on shapes and not on weights; what such a model says
means nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from seap_export.activations.statistics import covariance_bytes
from seap_export.families import ModelSpec, model_spec
from seap_export.sources.tensor_writer import SafetensorsWriter

__all__ = ["LLAMA_2_7B", "Shape", "write_random_llama"]

#: Standard deviation of the weights, Llama's own `initializer_range`.
_SPREAD = 0.02
_SPECIAL = ("<unk>", "<s>", "</s>")


@dataclass(frozen=True)
class Shape:
    """The shape of a Llama model; every head has keys and values of its own."""

    layers: int = 32
    hidden: int = 4096
    heads: int = 32
    neurons: int = 11008
    vocabulary: int = 32000
    positions: int = 4096

    @property
    def config(self) -> dict[str, object]:
        """The model's config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "intermediate_size": self.neurons,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "dtype": "bfloat16",
        }

    @property
    def spec(self) -> ModelSpec:
        """The shapes of all tensors."""
        return model_spec(self.config)

    def weight_bytes(self, ratio: float = 0.0) -> int:
        """Bytes of the weights in 16 bits when that fraction of attention and MLP is removed."""
        prunable = sum(self.spec.prunable_weights(layer) for layer in range(self.layers))
        return 2 * (self.spec.num_parameters() - round(ratio * prunable))

    @property
    def statistics_bytes(self) -> int:
        """Bytes that `calibrate` writes for a task."""
        return covariance_bytes(self.spec)

    def cache_bytes(self, positions: int) -> int:
        """Bytes of one row's keys and values in 16 bits."""
        return 2 * 2 * self.layers * self.hidden * positions


LLAMA_2_7B = Shape()


def write_random_llama(folder: Path, shape: Shape = LLAMA_2_7B, seed: int = 0) -> None:
    """Writes config, tokenizer and weights; one tensor is in memory at a time.

    Args:
        folder: The folder, which is made if need be.
        shape: The shape of the model.
        seed: The same seed gives the same files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(shape.config, indent=1) + "\n", "utf-8", newline="\n")
    generator, places = torch.Generator().manual_seed(seed), {}
    for name, tensors in _shards(shape):
        with SafetensorsWriter(folder / name, tensors, torch.bfloat16) as writer:
            for tensor, size in tensors.items():
                writer.write(tensor, _random(size, generator))
                places[tensor] = name
    index = {"metadata": {"total_size": shape.weight_bytes()}, "weight_map": places}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index, indent=1) + "\n", "utf-8", newline="\n")


def _shards(shape: Shape) -> Iterator[tuple[str, Mapping[str, tuple[int, ...]]]]:
    """A file for each layer, and one for what is outside of the layers: the tensors in it with their shapes."""
    everything, spec = dict(shape.spec.tensors()), shape.spec
    number = shape.layers + 1
    for layer in range(shape.layers):
        own = {name: everything.pop(name) for name in spec.layer_tensors(layer)}
        yield f"model-{layer + 1:05}-of-{number:05}.safetensors", own
    yield f"model-{number:05}-of-{number:05}.safetensors", everything


def _random(size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Ones for a norm, else normally distributed weights."""
    if len(size) == 1:
        return torch.ones(size)
    return torch.empty(size, dtype=torch.float32).normal_(0.0, _SPREAD, generator=generator)


def _write_tokenizer(folder: Path) -> None:
    """A token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=_SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    special = dict(zip(("unk_token", "bos_token", "eos_token"), _SPECIAL, strict=True))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8", newline="\n")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--layers", type=int, default=LLAMA_2_7B.layers, show_default=True)
@click.option("--hidden", type=int, default=LLAMA_2_7B.hidden, show_default=True)
@click.option("--heads", type=int, default=LLAMA_2_7B.heads, show_default=True)
@click.option("--neurons", type=int, default=LLAMA_2_7B.neurons, show_default=True)
@click.option("--vocabulary", type=int, default=LLAMA_2_7B.vocabulary, show_default=True)
@click.option("--positions", type=int, default=LLAMA_2_7B.positions, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def random_llama(folder: Path, seed: int, **sizes: int) -> None:
    """Write the model into FOLDER."""
    write_random_llama(folder, Shape(**sizes), seed)
    click.echo(f"{folder}: {Shape(**sizes).weight_bytes() / 1e9:.1f} GB")


if __name__ == "__main__":
    random_llama()
