"""llama.cpp's GELU is of f16, so that families with it are judged as f16 is."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.execution import ONE_THREAD
from support.product import GgufFormat
from support.variations import VARIATIONS, micro_config

from seap_export.model.families import model_spec
from validation.parity.candidates import candidate
from validation.parity.candidates.candidate import ParityInput
from validation.parity.candidates.llama_candidate import LlamaCandidate
from validation.runtimes.table import runtime_row


@pytest.mark.parametrize(
    ("variation", "precision", "arithmetic", "block_size"),
    [
        ("llama-gqa", "f32", "fp32", None),
        ("gemma2", "f32", "fp16", None),
        ("gemma2", "q8_0", "int8", 32),
        ("llama-gqa", "q4_0", "int4", 32),
        ("llama-gqa", "q4_k_m", "int4", 128),  # k-quants round activations in larger blocks
    ],
)
def test_arithmetic(
    variation: str, precision: str, arithmetic: str, block_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate, "read_format", lambda folder: GgufFormat(precision))
    parity_input = ParityInput(
        Path(), model_spec(micro_config(**VARIATIONS[variation])), ONE_THREAD, lambda line: None
    )
    taken = LlamaCandidate("llama.cpp", runtime_row("llama.cpp"), parity_input).arithmetic
    assert (taken.name, getattr(taken.quantization, "block_size", None)) == (arithmetic, block_size)
