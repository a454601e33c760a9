"""Descriptions of Gemma 3 that leave something out, each in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from micro import micro_config

from seap_export.families import family as module
from seap_export.families import family_of_model_type
from seap_export.families.family import Family

__all__ = ["WRONG", "describe"]


def _block(**values: Any) -> Callable[[Family], dict[str, Any]]:
    return lambda right: {"block": dataclasses.replace(right.block, **values)}


def _names(swapped: Mapping[str, str]) -> Callable[[Family], dict[str, Any]]:
    return lambda right: {"names": {**right.names, **{own: right.names[other] for own, other in swapped.items()}}}


#: What is left out, and what is said in its place.
WRONG: dict[str, Callable[[Family], dict[str, Any]]] = {
    "activation": lambda right: {"keys": {}},
    "window": lambda right: {"window": None},
    "local rotation": lambda right: {"rotation": dataclasses.replace(right.rotation, local_theta=None)},
    "attention scale": _block(attention_scale=None),
    "norm offset": _block(norm_offset=0.0),
    "order of norm and rotation": _block(qk_norm="after_rotation"),
    "embedding multiplier": _block(embedding_multiplier=None),
    "soft cap of logits": _block(logits_softcap=None),
    "which norm is where": _names({
        "post_self_attn_layernorm": "post_attention_layernorm", "post_attention_layernorm": "post_self_attn_layernorm",
    }),
    "which of gate and up is which": _names({"gate_proj": "up_proj", "up_proj": "gate_proj"}),
}  # fmt: skip


def describe(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Replaces the description of Gemma 3 by one with these changes, in which all keys are said to be harmless."""
    right = family_of_model_type("gemma3_text")
    keys = (*right.harmless, *right.defaults, *micro_config(model_type="gemma3_text"), "final_logit_softcapping")
    wrong = dataclasses.replace(right, **{"harmless": keys, **changes})
    others = tuple(own for own in module.families() if own is not right)
    monkeypatch.setattr(module, "families", lambda: (*others, wrong))
