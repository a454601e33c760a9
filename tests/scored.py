"""Layers with scores and losses that no text gave."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from micro import micro_config

from seap_export.families import ModelSpec, model_spec
from seap_export.plan.options import LayerOptions, options_from_scores
from seap_export.scores import LayerScores


def small_spec(heads: int, kv_groups: int, neurons: int, layers: int = 1, **values: Any) -> ModelSpec:
    """A llama of width 24 with heads of 4 channels."""
    shape = {"num_attention_heads": heads, "num_key_value_heads": kv_groups, "intermediate_size": neurons}
    sizes = {"hidden_size": 24, "head_dim": 4, "num_hidden_layers": layers}
    return model_spec(micro_config(**{"model_type": "llama", **sizes, **shape, **values}))


def smollm2_spec(**values: Any) -> ModelSpec:
    """SmolLM2-135M's shapes."""
    shape = {
        "num_hidden_layers": 30,
        "hidden_size": 576,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "intermediate_size": 1536,
    }
    return model_spec(micro_config(**{"model_type": "llama", **shape, **values}))


def scores_of(heads: Any, neurons: Any, head_dim: int = 4) -> LayerScores:
    """Scores of heads whose channels are all alike."""
    channels = torch.as_tensor(heads, dtype=torch.float64)[:, None].expand(-1, head_dim)
    return LayerScores(channels, torch.as_tensor(neurons, dtype=torch.float64))


def random_scores(spec: ModelSpec, head_worth: float = 1.0, seed: int = 0) -> list[LayerScores]:
    """Scores between 0 and 1 of every layer; those of heads times `head_worth`."""
    generator = torch.Generator().manual_seed(seed)
    return [
        LayerScores(
            head_worth * torch.rand(own.num_attention_heads, spec.head_dim, generator=generator, dtype=torch.float64),
            torch.rand(own.intermediate_size, generator=generator, dtype=torch.float64),
        )
        for own in spec.layers
    ]


def scored_options(spec: ModelSpec, scores: list[LayerScores]) -> list[LayerOptions]:
    """The options of every layer."""
    return [options_from_scores(spec, layer, own) for layer, own in enumerate(scores)]


def random_sensitivity(spec: ModelSpec, seed: int = 0) -> np.ndarray:
    """Between 0.1 and 10, for attention and MLP of every layer."""
    return 10.0 ** np.random.default_rng(seed).uniform(-1.0, 1.0, (len(spec.layers), 2))
