"""The LM head takes rows some at a time."""

from __future__ import annotations

import pytest
import torch

from seap_export.model.layers import head as module
from seap_export.model.layers.head import Head


def test_rows_are_taken_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias, x, values = (torch.randn(size, generator=generator) for size in ((50, 8), (50,), (3, 8), (3, 50)))
    monkeypatch.setattr(module, "_VOCABULARY_BLOCK", 16)
    torch.testing.assert_close(Head(weight, bias)(x), x @ weight.T + bias)
    torch.testing.assert_close(Head(weight)(x), x @ weight.T)
    torch.testing.assert_close(Head(weight, bias).transposed(values), values @ weight)


def test_some_tokens() -> None:
    head, tokens = Head(torch.arange(6.0).view(3, 2), torch.arange(3.0)), torch.tensor([2, 0])
    assert head.rows(tokens)(torch.ones(1, 2)).tolist() == [[11.0, 1.0]]
