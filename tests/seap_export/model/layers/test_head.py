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
    tokens = torch.tensor([40, 2])
    torch.testing.assert_close(Head(weight, bias).rows(tokens)(x), (x @ weight.T + bias)[:, tokens])
