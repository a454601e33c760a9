"""The channels of a gated delta net, chunk by chunk of the texts of a padded batch."""

from __future__ import annotations

import torch
from torch.nn import functional

from seap_export.model.families import DeltaNet
from seap_export.model.layers.batches import Batch
from seap_export.model.layers.sublayers.convolution import convolved
from seap_export.model.layers.sublayers.norm import rms_norm
from seap_export.model.layers.sublayers.operands import Operands
from seap_export.model.layers.sublayers.recurrence import in_chunks, pairwise_decay

#: The epsilon that is added to the square of the length of queries and keys.
_LENGTH_EPSILON = 1e-6


def delta_net_channels(operands: Operands, net: DeltaNet, stream: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The gated channels of the value heads, [tokens, value heads * value_head_dim]; see `DeltaNet`."""
    x = operands.read(net.output, stream)
    packed, gate, rates, decay = (operands.linear(projection, x) for projection in net.readers)
    kernel, a_log, dt_bias, gain = (operands.tensor(name) for name in net.inner_tensors())
    assert kernel is not None
    assert a_log is not None
    assert dt_bias is not None
    assert gain is not None
    packed = functional.silu(convolved(packed, kernel, None, batch))
    operands.see("convolution", lambda: packed)
    query, key, value = packed.split([net.keys, net.keys, net.channels], -1)
    query, key = (_of_length_1(part, net.key_head_dim) for part in (query, key))
    decay = -a_log.exp() * functional.softplus(decay + dt_bias)
    parts = (
        query * net.key_head_dim**-0.5,
        key,
        value.unflatten(-1, (-1, net.value_head_dim)),
        rates.sigmoid(),
        decay,
    )
    query, key, value, rates, decay = (in_chunks(batch.padded(part.flatten(1)), part.shape[1:]) for part in parts)
    query, key = (part.repeat_interleave(net.heads_per_group, 1) for part in (query, key))
    heads = batch.packed(delta_rule(query, key, value, rates, decay)[:, : batch.real.shape[1]].flatten(2))
    operands.see("recurrence", lambda: heads)
    normed = rms_norm(heads.unflatten(-1, (-1, net.value_head_dim)), gain, operands.epsilon).flatten(1)
    return normed * functional.silu(gate)


def _of_length_1(x: torch.Tensor, width: int) -> torch.Tensor:
    heads = x.unflatten(-1, (-1, width))
    return heads * torch.rsqrt(heads.square().sum(-1, keepdim=True) + _LENGTH_EPSILON)


def delta_rule(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rates: torch.Tensor, decay: torch.Tensor
) -> torch.Tensor:
    """Updates the states token by token and reads them with each query, [batch, tokens, heads, value_head_dim].

    Within a chunk, all corrections u of the states by its tokens solve one triangular system, as in the paper:
    u_i = b_i (v_i - e^(g_1 + ... + g_i) S^T k_i - sum over j < i of e^(g_j+1 + ... + g_i) (k_i . k_j) u_j).

    Args:
        query: Queries, keys and values, [batch, heads, chunks, tokens of a chunk, channels] each.
        rates: Update rates, and decays in log space, [batch, heads, chunks, tokens of a chunk].
    """
    since_start, between = pairwise_decay(decay)
    strength = rates.unsqueeze(-1)
    system = (key @ key.transpose(-1, -2) * between * strength).tril(-1)
    known = torch.cat([value * strength, key * strength * since_start.exp().unsqueeze(-1)], -1)
    solved = torch.linalg.solve_triangular(system, known, upper=False, unitriangular=True)
    corrections, read = solved.split([value.shape[-1], key.shape[-1]], -1)
    scores = query @ key.transpose(-1, -2) * between
    query = query * since_start.exp().unsqueeze(-1)
    key = key * (since_start[..., -1:] - since_start).exp().unsqueeze(-1)
    kept = since_start[..., -1].exp()[..., None, None]
    state = value.new_zeros(*value.shape[:2], key.shape[-1], value.shape[-1])
    outputs = []
    for chunk in range(value.shape[2]):
        written = corrections[:, :, chunk] - read[:, :, chunk] @ state
        outputs.append(query[:, :, chunk] @ state + scores[:, :, chunk] @ written)
        state = state * kept[:, :, chunk] + key[:, :, chunk].transpose(-1, -2) @ written
    return torch.cat(outputs, 2).transpose(1, 2)
