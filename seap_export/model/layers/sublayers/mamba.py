"""The channels of Mamba-2, chunk by chunk of the texts of a padded batch."""

from __future__ import annotations

import torch
from torch.nn import functional

from seap_export.model.families import Mamba
from seap_export.model.layers.batches import Batch
from seap_export.model.layers.sublayers.convolution import convolved
from seap_export.model.layers.sublayers.norm import rms_norm
from seap_export.model.layers.sublayers.operands import Operands
from seap_export.model.layers.sublayers.recurrence import in_chunks, pairwise_decay


def mamba_channels(operands: Operands, mamba: Mamba, stream: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The gated channels of the heads, [tokens, heads * head_dim]; see `Mamba`."""
    x = operands.read(mamba.output, stream)
    gate, *parts, steps = (operands.linear(projection, x) for projection in mamba.readers)
    kernel, a_log, dt_bias, d = (operands.tensor(f"mamba_{name}") for name in ("kernel", "a_log", "dt_bias", "d"))
    assert kernel is not None
    assert a_log is not None
    assert dt_bias is not None
    assert d is not None
    seen = functional.silu(convolved(torch.cat(parts, -1), kernel, operands.tensor("mamba_kernel_bias"), batch))
    operands.see("convolution", lambda: seen)
    values, key, query = seen.split([mamba.channels, mamba.keys, mamba.keys], -1)
    values = values.unflatten(-1, (-1, mamba.head_dim))
    key, query = (part.unflatten(-1, (-1, mamba.state_size)) for part in (key, query))
    steps = functional.softplus(steps + dt_bias).clamp(min=mamba.least_step)
    inputs = (query, key, values * steps.unsqueeze(-1), -a_log.exp() * steps)
    query, key, written, decay = (in_chunks(batch.padded(part.flatten(1)), part.shape[1:]) for part in inputs)
    query, key = (part.repeat_interleave(mamba.heads_per_group, 1) for part in (query, key))
    states = batch.packed(written_and_read(query, key, written, decay)[:, : batch.real.shape[1]].flatten(2))
    channels = states + (values * d.unsqueeze(-1)).flatten(1)
    for what, part in (("time steps", steps), ("inputs", inputs[2]), ("recurrence", states), ("states", channels)):
        operands.see(what, lambda part=part: part)  # type: ignore[misc]
    return _gated(operands, mamba, channels, functional.silu(gate))


def _gated(operands: Operands, mamba: Mamba, channels: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    gain = operands.tensor("mamba_norm")
    if gain is None:
        return channels * gate
    groups = (mamba.mamba_n_groups, -1)
    gated = channels * gate if mamba.norm == "after_gate" else channels
    operands.see("gated states", lambda: gated)
    normed = rms_norm(gated.unflatten(-1, groups), gain.unflatten(-1, groups), operands.epsilon).flatten(1)
    return normed * gate if mamba.norm == "before_gate" else normed


def written_and_read(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, decay: torch.Tensor) -> torch.Tensor:
    """Writes each value to the states and reads them with each query, [batch, tokens, heads, channels of a value].

    Args:
        query: Queries, keys and values, [batch, heads, chunks, tokens of a chunk, channels] each.
        value: The values, which are written to the states with each key.
        decay: Decays in log space, [batch, heads, chunks, tokens of a chunk].
    """
    since_start, between = pairwise_decay(decay)
    within = (query @ key.transpose(-1, -2) * between) @ value
    query = query * since_start.exp().unsqueeze(-1)
    key = key * (since_start[..., -1:] - since_start).exp().unsqueeze(-1)
    kept = since_start[..., -1].exp()[..., None, None]
    state = value.new_zeros(*value.shape[:2], key.shape[-1], value.shape[-1])
    outputs = []
    for chunk in range(value.shape[2]):
        outputs.append(within[:, :, chunk] + query[:, :, chunk] @ state)
        state = state * kept[:, :, chunk] + key[:, :, chunk].transpose(-1, -2) @ value[:, :, chunk]
    return torch.cat(outputs, 2).transpose(1, 2)
