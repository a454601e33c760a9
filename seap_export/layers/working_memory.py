"""What the work on one layer takes, whatever the number of layers, tasks and tokens."""

from __future__ import annotations

import math

from seap_export.families import Attention, ModelSpec

__all__ = ["working_bytes"]

#: Tokens whose logits are in memory at once while the sensitivity is taken, and copies of these logits.
LOGIT_TOKENS = 256
_LOGIT_COPIES = 4
#: Matrices of all channels in float64: a covariance, and its factor or what is made from it.
_MATRICES = 2


def working_bytes(spec: ModelSpec, batch_tokens: int) -> int:
    """Bytes that calibration and refit need besides hidden states, of which a layer and the vocabulary need the most.

    The largest layer in float32, as it is stored and as it is computed (8 bytes a weight); two matrices in float64
    over the inputs of its widest projection (16 channels² bytes); and a batch: six values of every neuron and every
    head's scores, in float32. Outside of the layers: the embedding or LM head as it is stored (4 bytes a weight), and
    the logits of 256 tokens four times over.
    """
    layers = range(len(spec.layers))
    weights = max(sum(map(math.prod, spec.layer_tensors(layer).values())) for layer in layers)
    channels, inputs = max(spec.channels), max(sublayer.channels for sublayer in spec.sublayers)
    heads = max(attention.num_attention_heads for attention in spec.all(Attention))
    batch = 4 * batch_tokens * (6 * max(inputs, spec.hidden_size) + 2 * heads * batch_tokens)
    vocabulary = 4 * spec.vocab_size * (spec.hidden_size + _LOGIT_COPIES * LOGIT_TOKENS)
    return max(8 * weights + 8 * _MATRICES * channels**2 + batch, vocabulary)
