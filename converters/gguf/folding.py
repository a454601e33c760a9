"""Folds factors that an architecture of llama.cpp lacks into the weights.

A factor on embeddings goes into the embedding, and out of the last norm if that is the LM head too; one on logits into
the last norm; one on the outputs of attention and MLP into the norms after them, or into the projections and their
biases; one on attention scores into the queries' norm, or into their projection and its bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from converters.gguf.architectures import Architecture
from seap_export.model.families import Attention, ModelSpec


def attention_scale(architecture: Architecture, spec: ModelSpec) -> float:
    """The factor on attention scores in llama.cpp, where the metadata do not give it."""
    if architecture.normalises_values:
        return 1.0
    if architecture.wide_scale and len(spec.layers) == architecture.wide_scale:
        return float((spec.hidden_size // spec.first(Attention).num_attention_heads) ** -0.5)
    return float(spec.head_dim**-0.5)


def embedding_scale(architecture: Architecture, spec: ModelSpec) -> float:
    """The factor on embeddings in llama.cpp, where the metadata do not give it."""
    return math.sqrt(spec.hidden_size) if architecture.scales_embeddings else 1.0


@dataclass(frozen=True)
class Folding:
    """The factors that weights are multiplied by when they are written; 1.0 for those that are not named."""

    factors: dict[str, float]

    @classmethod
    def of(cls, architecture: Architecture, spec: ModelSpec) -> Folding:
        """The factors with which this architecture computes this model."""
        if architecture.scaled_by_keys:
            return cls({})
        block, attention, factors = spec.block, spec.first(Attention), {}
        embeddings = block.embedding_multiplier / embedding_scale(architecture, spec)
        scores = attention.scale / attention_scale(architecture, spec)
        factors["embed_tokens"] = embeddings
        factors["norm"] = block.logits_multiplier / (embeddings if spec.tie_word_embeddings else 1.0)
        factors["q_norm" if attention.qk_norm else "q_proj"] = scores
        for sublayer in spec.sublayers:
            factors[sublayer.norm_after or sublayer.output] = sublayer.multiplier
        for name, factor in {
            name: tensor for sublayer in spec.sublayers for name, tensor in sublayer.factors.items()
        }.items():
            factors[name] = factors.get(name, 1.0) * factor
        return cls({name: factor for name, factor in factors.items() if not math.isclose(factor, 1.0, rel_tol=1e-12)})

    def factor(self, name: str) -> float:
        """The factor on the tensor with this plain name."""
        return self.factors.get(name, 1.0)
