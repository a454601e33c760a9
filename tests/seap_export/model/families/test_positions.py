"""The rotation and the window of each layer are read in every spelling, as transformers reads them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from support.variations import VARIATIONS, micro_config
from transformers import AutoConfig

from seap_export.model.families import Attention, QueryScaling, RopeSpec, model_spec


def ropes_of(**values: Any) -> list[RopeSpec | None]:
    return [one.rope for one in model_spec({**micro_config(**values), **values}).all(Attention)]


def rope_of(**values: Any) -> RopeSpec:
    """That of a model whose layers all rotate alike."""
    (rope,) = {id(rope): rope for rope in ropes_of(**values)}.values()
    assert rope is not None
    return rope


def test_longrope_is_known_under_its_older_names() -> None:
    for name in ("longrope", "su", "yarn"):
        scaling = {**VARIATIONS["phi3-all"]["rope_scaling"], "type": name}
        rope = rope_of(**{**VARIATIONS["phi3-all"], "rope_scaling": scaling})
        assert (rope.rope_type, rope.switches_at) == ("longrope", 16)
        assert rope == rope_of(**VARIATIONS["phi3-all"])


def test_rotations_of_two_kinds_of_layers_are_read_from_one_table_too() -> None:
    values = VARIATIONS["gemma3-all"]
    nested = {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    }
    both = {key: value for key, value in values.items() if key != "rope_scaling"} | {"rope_parameters": nested}
    assert ropes_of(**both, rope_local_base_freq=7.0) == ropes_of(**values)


@pytest.mark.parametrize(
    ("values", "rotates"),
    [
        ({"model_type": "smollm3", "no_rope_layers": [1, 0, 1]}, [True, False, True]),
        ({"model_type": "smollm3", "no_rope_layers": None, "no_rope_layer_interval": 3}, [True, True, False]),
        (VARIATIONS["exaone4-window"], [True, False, True]),
        ({"model_type": "granitemoehybrid"}, [False, False, False]),
        ({"model_type": "granitemoehybrid", "position_embedding_type": "rope"}, [True, True, True]),
    ],
)
def test_only_some_layers_rotate_where_the_config_says_so(values: dict[str, Any], rotates: list[bool]) -> None:
    assert [rope is not None for rope in ropes_of(**values)] == rotates


def test_a_fixed_alpha_raises_the_base_and_dynamic_scaling_without_it_changes_nothing() -> None:
    plain, raised = (rope_of(**VARIATIONS[name]) for name in ("hunyuan", "hunyuan-all"))
    assert raised == dataclasses.replace(plain, theta=plain.theta * 1000.0 ** (16 / 14))
    dynamic = {"type": "dynamic", "factor": 2.0}
    assert rope_of(model_type="hunyuan_v1_dense", rope_scaling=dynamic) == plain
    assert rope_of(model_type="llama", rope_scaling=dynamic) == rope_of(model_type="llama")


def test_a_part_of_a_head_rotates_and_queries_are_scaled_by_position_where_the_family_knows_it() -> None:
    assert rope_of(**VARIATIONS["phi3-partial"]).dim == rope_of(model_type="glm4").dim == 8
    assert rope_of(model_type="glm4").interleaved
    assert model_spec(micro_config(model_type="ministral3")).first(Attention).query_scaling == QueryScaling(0.5, 8)
    assert model_spec(micro_config(model_type="mistral")).first(Attention).query_scaling is None


MISTRAL = {"model_type": "mistral", "max_position_embeddings": 32768}
KINDS = ["full_attention", "full_attention", "sliding_attention"]


@pytest.mark.parametrize(
    ("values", "windows"),
    [
        ({"model_type": "llama", "sliding_window": 5}, [None, None, None]),
        ({"model_type": "mistral", "sliding_window": 5}, [5, 5, 5]),
        ({"model_type": "qwen2", "sliding_window": 5}, [None, None, None]),
        (VARIATIONS["qwen2-window"], [None, 5, 5]),
        ({"model_type": "gemma2", "layer_types": None}, [5, None, 5]),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 3}, [5, 5, None]),
        (
            {"model_type": "exaone4", "sliding_window": 5, "layer_types": None, "sliding_window_pattern": "LG"},
            [5, None, 5],
        ),
        ({"model_type": "smollm3", "use_sliding_window": False, "sliding_window": 5}, [None, None, None]),
        # which take precedence over a pattern
        ({"model_type": "gemma3_text", "layer_types": KINDS, "sliding_window_pattern": 2}, [None, None, 5]),
        # what transformers takes an absent one for
        (MISTRAL, [AutoConfig.for_model(**micro_config(**MISTRAL)).sliding_window] * 3),
    ],
)
def test_a_layer_attends_within_the_window_that_the_config_gives_it(
    values: dict[str, Any], windows: list[int | None]
) -> None:
    assert [one.sliding_window for one in model_spec(micro_config(**values)).all(Attention)] == windows
