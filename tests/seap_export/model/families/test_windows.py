"""A layer attends within the window that its config gives it, as in transformers."""

from __future__ import annotations

from typing import Any

import pytest
from support.variations import VARIATIONS, micro_config
from transformers import AutoConfig

from seap_export.errors import InputError
from seap_export.model.families import Attention, model_spec


def windows_of(**values: Any) -> list[int | None]:
    return [one.sliding_window for one in model_spec(micro_config(**values)).all(Attention)]


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
    assert windows_of(**values) == windows


@pytest.mark.parametrize(
    ("model_type", "values", "says"),
    [
        ("gemma3_text", {"layer_types": "sliding_attention"}, "every layer"),
        ("gemma3_text", {"layer_types": ["chunked_attention", *KINDS[1:]]}, "chunked_attention"),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 5, "layer_types": None}, "layer_types"),
        # transformers masks these all the same
        ("smollm3", {"sliding_window": 5, "layer_types": [*["sliding_attention"] * 2, "full_attention"]}, "is off"),
        *(("mistral", {"sliding_window": window}, "sliding_window") for window in (-1, 2**40)),
        *(("gemma3_text", {"sliding_window_pattern": one}, "sliding_window_pattern") for one in (-1, 1.5)),
    ],
)
def test_what_says_no_window_is_refused(model_type: str, values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        windows_of(model_type=model_type, **values)
