"""Models with random weights: the shapes are those of the named models, and what is computed stays sound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks.random_model import random_model, write_random_model
from click.testing import CliRunner
from support.product import OUTPUTS, DecoderLayer, HiddenStates, SublayerPass, length_buckets, open_source

from validation.shapes import SHAPES, Shape

SHAPE = Shape(layers=2, hidden=32, heads=4, kv_heads=2, neurons=48, vocabulary=300, positions=128)


def test_it_is_a_sharded_model(tmp_path: Path) -> None:
    write_random_model(tmp_path, SHAPE)
    source = open_source(str(tmp_path))
    assert (len(source.spec.layers), source.spec.num_parameters()) == (2, SHAPE.spec.num_parameters())
    assert {tensor.dtype for tensor in source.read_layer(1).values()} == {torch.bfloat16}
    shards = sorted(tmp_path.glob("model-*-of-00003.safetensors"))
    assert len(shards) == 3
    assert 0 <= sum(path.stat().st_size for path in shards) - SHAPE.weight_bytes() < 2000 * len(shards)


def test_the_seed_decides(tmp_path: Path) -> None:
    for folder, seed in (("own", 1), ("same", 1), ("other", 2)):
        write_random_model(tmp_path / folder, SHAPE, seed)
    first, same, other = (open_source(str(tmp_path / folder)).digest for folder in ("own", "same", "other"))
    assert first == same != other


def test_its_sizes_shrink_with_the_ratio() -> None:
    assert SHAPE.weight_bytes() > SHAPE.weight_bytes(0.2) > SHAPE.weight_bytes(0.5) > 0


def test_hidden_states_stay_small_through_many_layers_and_channels_differ(tmp_path: Path) -> None:
    shape = Shape(layers=32, hidden=64, heads=4, kv_heads=4, neurons=176, vocabulary=300, positions=128)
    write_random_model(tmp_path, shape)
    source, spreads = open_source(str(tmp_path)), []
    batches = length_buckets([list(range(3, 103))], 128)
    states = HiddenStates.embedded(source.spec, source.read_embedding(), batches)

    def visit(passed: SublayerPass) -> None:
        spread = passed.channels[0].var(0)
        spreads.append(float(spread.max() / spread.median()))

    with torch.no_grad():
        for index in range(shape.layers):
            layer = DecoderLayer(source.spec, index, source.read_layer(index))
            for output in OUTPUTS:
                states.advance(layer, output, visit)
    assert float(states.streams[0].abs().max()) < 100
    assert min(spreads) > 3


def test_the_command_takes_other_sizes(tmp_path: Path) -> None:
    words = [
        "llama-3.2-1b",
        str(tmp_path),
        "--layers",
        "1",
        "--hidden",
        "64",
        "--vocabulary",
        "300",
        "--neurons",
        "32",
    ]
    done = CliRunner().invoke(random_model, words)
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert (config["num_hidden_layers"], config["num_key_value_heads"], config["tie_word_embeddings"]) == (1, 8, True)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-2-7b", 6_738_415_616),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-2-70b", 68_976_648_192),
        ("llama-3.1-70b", 70_553_706_496),
    ],
)
def test_the_shapes_are_those_of_the_model_cards(name: str, parameters: int) -> None:
    assert SHAPES[name].spec.num_parameters() == parameters
