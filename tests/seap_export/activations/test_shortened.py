"""What happens beyond a length that no text reaches is compared all the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.corpora import random_token_ids
from support.models import skip_unless_loaded, write_micro_model
from support.variations import VARIATIONS

from seap_export.activations.shortened import shortened
from seap_export.activations.walk_check import WalkCheck
from seap_export.errors import InputError
from seap_export.families import QueryScaling
from seap_export.sources.source import Source, open_source

#: Lengths far beyond the texts, as real models have them.
LONG: dict[str, dict[str, Any]] = {
    "phi3-all": {"original_max_position_embeddings": 100, "sliding_window": 90},
    "ministral3-all": {},
    "gemma3-all": {"sliding_window": 100},
}


def _source(folder: Path, variation: str) -> Source:
    values = {**VARIATIONS[variation], **LONG[variation]}
    if "rope_parameters" in values:
        values["rope_parameters"] = {**values["rope_parameters"], "original_max_position_embeddings": 100}
    source = open_source(str(write_micro_model(folder / "m", **values)))
    skip_unless_loaded(source.spec.family)
    return source


@torch.no_grad()
def _walk(source: Source) -> None:
    check = WalkCheck(source, random_token_ids(longest=30), source.read_outer("embed_tokens"))
    for index in range(len(source.spec.layers)):
        check.layer(index, source.read_layer(index))


@pytest.mark.parametrize("variation", LONG)
def test_both_sides_are_shortened_alike(tmp_path: Path, variation: str) -> None:
    source = _source(tmp_path, variation)
    config, spec = shortened(source.config, source.spec, 10)
    assert (config, spec) != (source.config, source.spec)
    _walk(source)


def test_a_wrong_long_table_is_noticed_by_texts_that_never_reach_it(tmp_path: Path) -> None:
    source = _source(tmp_path, "phi3-all")
    rope = source.spec.layers[0].rope
    assert rope is not None
    parameters = {**rope.parameters, "long_factor": rope.parameters["short_factor"]}
    layers = tuple(
        dataclasses.replace(own, rope=dataclasses.replace(rope, parameters=parameters)) for own in source.spec.layers
    )
    with pytest.raises(InputError, match="layer 0"):
        _walk(dataclasses.replace(source, spec=source.spec.with_layers(layers)))


def test_a_wrong_scaling_of_queries_is_noticed_by_texts_that_never_reach_it(tmp_path: Path) -> None:
    source = _source(tmp_path, "ministral3-all")
    scaling = source.spec.block.query_scaling
    assert scaling is not None
    block = dataclasses.replace(source.spec.block, query_scaling=QueryScaling(2 * scaling.beta, scaling.context))
    with pytest.raises(InputError, match="layer 0"):
        _walk(dataclasses.replace(source, spec=dataclasses.replace(source.spec, block=block)))


def test_a_model_without_such_lengths_stays_as_it_is(tmp_path: Path) -> None:
    source = open_source(str(write_micro_model(tmp_path / "m", **VARIATIONS["llama-yarn"])))
    assert shortened(source.config, source.spec, 10) == (dict(source.config), source.spec)
