"""How much memory the work on one layer takes, whatever the number of layers, tasks and tokens."""

from __future__ import annotations

import math

from seap_export.model.families import Attention, ModelSpec, Sublayer

#: Tokens whose logits are in memory at once while the sensitivity is taken, and copies of these logits.
LOGIT_TOKENS = 256
_LOGIT_COPIES = 4
#: Matrices of all channels in float64: a covariance, and its factor or what is made from it.
_MATRICES = 2
#: Bytes in float32 up to which all parts of a sublayer, its experts, are converted at once.
_AT_ONCE = 4 << 30
#: Entries, at most, of the matrices over the channels of parts that are summed while hidden states pass.
_SUMMED = 1 << 27
#: Values of each neuron of a batch, where all neurons are computed together, and where one expert's are.
_VALUES, _VALUES_IN_PARTS = 6, 3


def is_widened_in_parts(sublayer: Sublayer, hidden_size: int) -> bool:
    """Whether the weights of a sublayer stay as they are stored, and a part of them at a time becomes float32."""
    return sublayer.blocks > 1 and 4 * sublayer.weights(hidden_size) > _AT_ONCE


def summed_parts(sublayer: Sublayer) -> int:
    """How many parts of a sublayer, its experts, have a matrix over their channels while hidden states pass."""
    return min(sublayer.blocks, _SUMMED // _numbers(sublayer))


def _numbers(sublayer: Sublayer) -> int:
    """Number of entries of a matrix over the channels of one part."""
    return (sublayer.channels // sublayer.blocks) ** 2


def working_bytes(spec: ModelSpec, batch_tokens: int) -> int:
    """Bytes that calibration and refit need besides hidden states, of which a layer and the vocabulary need the most.

    The largest layer in float32, as it is stored and as it is computed (8 bytes a weight); two matrices in float64
    over the inputs of its widest projection (16 channels² bytes), or one for each expert up to 1 GiB; and a batch: six
    values of every neuron and every head's scores, in float32. Experts that together would take more than 4 GiB stay
    in 16 bits, as models of this size are stored, and one of them is converted; calibration then writes the float32
    triangles of all, and a refit holds the layer twice, which is more than the matrices of calibration. Outside of the
    layers: the embedding or LM head as it is stored (4 bytes a weight), and the logits of 256 tokens four times over.
    """
    layers = range(len(spec.layers))
    heads = max(attention.num_attention_heads for attention in spec.all(Attention))
    scores = 8 * heads * batch_tokens**2
    in_parts = [sublayer for sublayer in spec.sublayers if is_widened_in_parts(sublayer, spec.hidden_size)]
    parts = max((_in_parts(sublayer, spec.hidden_size, batch_tokens) for sublayer in in_parts), default=0)
    others = [sublayer for sublayer in spec.sublayers if sublayer not in in_parts]
    weights = max(_whole_weights(spec, layer) for layer in layers)
    matrices = max(_numbers(one) * max(_MATRICES, summed_parts(one)) for one in others)
    inputs = max(spec.hidden_size, *(sublayer.channels for sublayer in others))
    whole = 8 * weights + 8 * matrices + 4 * batch_tokens * _VALUES * inputs
    vocabulary = 4 * spec.vocab_size * (spec.hidden_size + _LOGIT_COPIES * LOGIT_TOKENS)
    return max(whole + scores, 8 * weights + parts, vocabulary)


def _whole_weights(spec: ModelSpec, layer: int) -> int:
    """Number of weights of a layer, without those that are converted in parts."""
    sublayers = spec.layers[layer].sublayers
    in_parts = (sublayer for sublayer in sublayers if is_widened_in_parts(sublayer, spec.hidden_size))
    every = sum(map(math.prod, spec.layer_tensors(layer).values()))
    return every - sum(sublayer.weights(spec.hidden_size) for sublayer in in_parts)


def _in_parts(sublayer: Sublayer, hidden_size: int, batch_tokens: int) -> int:
    """Bytes of a sublayer in 16 bits, and of its triangles; or of another one, two parts in float32 and a batch."""
    weights, channels = sublayer.weights(hidden_size), sublayer.channels // sublayer.blocks
    triangles = 2 * sublayer.blocks * channels**2
    batch = 4 * batch_tokens * _VALUES_IN_PARTS * sublayer.channels
    return 2 * weights + max(triangles, 2 * weights + 8 * weights // sublayer.blocks + batch)
