"""A layer is cut along the right axes."""

from __future__ import annotations

import pytest
import torch
from support.plans import kept_layer
from support.variations import micro_config

from seap_export.model.families import model_spec
from seap_export.pruning.shrink.layer import kept_channels, shrink_layer

#: Of 6 query heads in 3 groups of 2: group 1 goes, group 0 keeps its second head, group 2 its first.
PLAN = kept_layer(2, kv_groups=(0, 2), heads=(1, 4), neurons=(0, 3, 79))
QUERIES = [*range(16, 32), *range(64, 80)]
KEYS = [*range(16), *range(32, 48)]
ROWS = {"q_proj": QUERIES, "k_proj": KEYS, "v_proj": KEYS, "gate_proj": [0, 3, 79], "up_proj": [0, 3, 79]}
COLUMNS = {"o_proj": QUERIES, "down_proj": [0, 3, 79]}


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma2", "glm4"])
def test_what_is_kept_are_rows_and_their_biases_or_columns_and_all_norms(model_type: str) -> None:
    switches = {"attention_bias": True, "mlp_bias": True} if model_type == "llama" else {}
    spec = model_spec(micro_config(model_type=model_type, **switches))
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in spec.layer_tensors(1).items()}
    given = {name: tensor.clone() for name, tensor in tensors.items()}
    shrunk = shrink_layer(tensors, spec, 1, PLAN)
    assert all(torch.equal(tensors[name], given[name]) for name in given)
    layers = (spec.layers[0], PLAN.spec(spec.layers[1], frozenset()), spec.layers[2])
    shapes = {name: tuple(tensor.shape) for name, tensor in shrunk.items()}
    assert shapes == spec.with_layers(layers).layer_tensors(1)
    for name, tensor in shrunk.items():
        projection, part = name.split(".")[-2:]
        rows, columns = ROWS.get(projection), COLUMNS.get(projection)
        expected = tensors[name] if rows is None else tensors[name][rows]
        assert torch.equal(tensor, expected if columns is None or part == "bias" else expected[:, columns]), name
    whole = shrink_layer(tensors, spec, 1, kept_layer(2, range(3), range(6), range(80)))
    assert whole.keys() == tensors.keys()
    assert all(torch.equal(whole[name], tensors[name]) for name in tensors)
    for output, kept in COLUMNS.items():
        assert kept_channels(PLAN, spec.layers[0], output).tolist() == kept  # type: ignore[arg-type]
