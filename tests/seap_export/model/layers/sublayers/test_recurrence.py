"""Recurrences in chunks, compared with their definitions; what transformers computes is compared elsewhere."""

from __future__ import annotations

import torch

from seap_export.model.layers.sublayers.delta_net import delta_rule
from seap_export.model.layers.sublayers.mamba import written_and_read
from seap_export.model.layers.sublayers.recurrence import in_chunks

TOKENS, HEADS, KEY, VALUE = 150, 2, 8, 5


def _parts() -> list[torch.Tensor]:
    """Queries, keys of length 1, values, update rates, and decays that remember more than a chunk; float64."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, TOKENS, HEADS, KEY, generator=generator).double() for _ in range(2))
    value = torch.randn(1, TOKENS, HEADS, VALUE, generator=generator).double()
    rates, decay = (torch.rand(1, TOKENS, HEADS, generator=generator).double() for _ in range(2))
    return [query, key / key.norm(dim=-1, keepdim=True), value, rates, -decay / 20]


def _token_by_token(corrects: bool) -> torch.Tensor:
    """[tokens, heads, channels of a value]; without corrections, values are written as they are."""
    query, key, value, rates, decay = (part[0] for part in _parts())
    state, outputs = torch.zeros(HEADS, KEY, VALUE).double(), []
    for token in range(TOKENS):
        state = state * decay[token].exp()[:, None, None]
        known = torch.einsum("hkv,hk->hv", state, key[token])
        written = (value[token] - known) * rates[token][:, None] if corrects else value[token]
        state = state + torch.einsum("hk,hv->hkv", key[token], written)
        outputs.append(torch.einsum("hkv,hk->hv", state, query[token]))
    return torch.stack(outputs)


def test_chunks_are_what_is_computed_token_by_token() -> None:
    query, key, value, rates, decay = (in_chunks(part.flatten(2), part.shape[2:]) for part in _parts())
    corrected, plain = delta_rule(query, key, value, rates, decay), written_and_read(query, key, value, decay)
    torch.testing.assert_close(corrected[0, :TOKENS], _token_by_token(corrects=True))
    torch.testing.assert_close(plain[0, :TOKENS], _token_by_token(corrects=False))
