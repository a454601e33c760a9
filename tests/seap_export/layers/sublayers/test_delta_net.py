"""The gated delta net in chunks, compared with its definition; what transformers computes is compared elsewhere."""

from __future__ import annotations

import torch

from seap_export.layers.sublayers.delta_net import delta_rule
from seap_export.layers.sublayers.recurrence import in_chunks

TOKENS, HEADS, KEY, VALUE = 150, 2, 8, 5


def test_chunks_are_the_recurrence_token_by_token() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, TOKENS, HEADS, KEY, generator=generator).double() for _ in range(2))
    value = torch.randn(1, TOKENS, HEADS, VALUE, generator=generator).double()
    key = key / key.norm(dim=-1, keepdim=True)
    rates = torch.rand(1, TOKENS, HEADS, generator=generator).double()
    decay = -torch.rand(1, TOKENS, HEADS, generator=generator).double() / 20  # remembers more than a chunk
    state, outputs = torch.zeros(HEADS, KEY, VALUE).double(), []
    for token in range(TOKENS):
        state = state * decay[0, token].exp()[:, None, None]
        error = value[0, token] - torch.einsum("hkv,hk->hv", state, key[0, token])
        state = state + torch.einsum("hk,hv,h->hkv", key[0, token], error, rates[0, token])
        outputs.append(torch.einsum("hkv,hk->hv", state, query[0, token]))
    parts = (in_chunks(part.flatten(2), part.shape[2:]) for part in (query, key, value, rates, decay))
    torch.testing.assert_close(delta_rule(*parts)[0, :TOKENS], torch.stack(outputs))
