"""The rotation of each layer is read in every spelling, and what is not supported is refused by name."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from support.variations import VARIATIONS, micro_config

from seap_export.errors import InputError
from seap_export.model.families import Attention, QueryScaling, RopeSpec, model_spec


def ropes_of(**values: Any) -> list[RopeSpec | None]:
    return [one.rope for one in model_spec({**micro_config(**values), **values}).all(Attention)]


def rope_of(**values: Any) -> RopeSpec:
    """That of a model whose layers all rotate alike."""
    (rope,) = {id(rope): rope for rope in ropes_of(**values)}.values()
    assert rope is not None
    return rope


LINEAR = {"type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    ("theta", "scaling", "read"),
    [
        (5000.0, {"rope_scaling": LINEAR}, {"factor": 4.0}),
        (5000.0, {"rope_scaling": {"rope_type": "linear", **LINEAR}}, {"factor": 4.0}),
        (None, {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}}, {"factor": 4.0}),
        (5000.0, {"rope_scaling": None}, {}),
        (None, {"rope_parameters": {"rope_theta": 5000.0}, "rope_scaling": None}, {}),
    ],
)
def test_a_rotation_is_read_in_every_spelling(
    theta: float | None, scaling: dict[str, Any], read: dict[str, float]
) -> None:
    rope = rope_of(model_type="llama", rope_theta=theta, **scaling)
    assert (rope.theta, rope.rope_type, dict(rope.parameters)) == (5000.0, "linear" if read else "default", read)


LONG = VARIATIONS["phi3-all"]["rope_scaling"]


@pytest.mark.parametrize("name", ["longrope", "su", "yarn"])
def test_longrope_is_known_under_its_older_names(name: str) -> None:
    values = {**VARIATIONS["phi3-all"], "rope_scaling": {**LONG, "type": name}}
    assert rope_of(**values) == rope_of(**VARIATIONS["phi3-all"])
    assert (rope_of(**values).rope_type, rope_of(**values).switches_at) == ("longrope", 16)


def test_rotations_of_two_kinds_of_layers_are_read_from_one_table_too() -> None:
    values = VARIATIONS["gemma3-all"]
    nested = {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    }
    both = {key: value for key, value in values.items() if key != "rope_scaling"} | {"rope_parameters": nested}
    assert ropes_of(**both, rope_local_base_freq=7.0) == ropes_of(**values)
    with pytest.raises(InputError, match="one rotation"):
        rope_of(model_type="llama", rope_parameters=nested)
    for unread in ({"rope_parameters": nested["full_attention"]}, {"rope_scaling": {"type": "linear", "factor": 4.0}}):
        with pytest.raises(InputError, match="transformers does not read"):
            ropes_of(model_type="gemma3_text", **unread)


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


MROPE = {"rope_type": "mrope", "factor": 2.0}
SCALED_QUERIES = {"rope_theta": 1e4, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 8}
PARTIAL = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
PHIMOE = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "long_mscale": 1.2}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"rope_scaling": MROPE}, r"'mrope' is not supported.*default, linear, llama3, yarn, longrope"),
        *(({"rope_scaling": {"rope_type": kind}}, "factor") for kind in ("linear", "llama3", "yarn")),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"rope_parameters": PARTIAL}, r"partial_rotary_factor 0\.5"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "mrope_section": [1]}}, "'mrope_section'"),
        *(({key: value}, key) for value in ([1], "linear", 5) for key in ("rope_scaling", "rope_parameters")),
        ({"model_type": "phimoe", "rope_scaling": {**PHIMOE, "short_mscale": 1.1}}, "'long_mscale' is not known"),
        ({"model_type": "mistral", "rope_parameters": SCALED_QUERIES}, "llama_4_scaling_beta"),
        ({"model_type": "phi3", "partial_rotary_factor": 1.5}, "partial_rotary_factor"),
        ({"model_type": "phi3", "partial_rotary_factor": 0.2}, "pairs"),
        *(({"model_type": "smollm3", "no_rope_layers": listed}, "no_rope_layers") for listed in ([1, 0], "all")),
        *(
            ({**VARIATIONS["phi3-all"], "rope_scaling": {**LONG, key: factors}}, key)
            for key in ("short_factor", "long_factor")
            for factors in ([1.0], "many", None, [*[1.0] * 5, "1"], [0.0] * 6)
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        ropes_of(**{"model_type": "llama", **values})
