"""llama.cpp's GELU is of f16, so that families with it are judged as f16 is."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.execution import ONE_THREAD
from support.product import GgufFormat, Precision
from support.variations import VARIATIONS, micro_config

from seap_export.model.families import model_spec
from validation.parity.candidates import candidate
from validation.parity.candidates.candidate import ParityInput
from validation.parity.candidates.llama_candidate import LlamaCandidate
from validation.runtimes.table import runtime_row


def arithmetic_of(variation: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> Precision:
    """The precision in which llama.cpp is taken to compute a folder of this one."""
    monkeypatch.setattr(candidate, "read_format", lambda folder: GgufFormat(precision))
    spec = model_spec(micro_config(**VARIATIONS[variation]))
    parity_input = ParityInput(Path(), spec, ONE_THREAD, lambda line: None)
    return LlamaCandidate("llama.cpp", runtime_row("llama.cpp"), parity_input).arithmetic


@pytest.mark.parametrize(
    ("variation", "precision", "arithmetic"),
    [
        ("llama-gqa", "f32", "fp32"),
        ("gemma2", "f32", "fp16"),
        ("gemma2", "q8_0", "int8"),
        ("llama-gqa", "f16", "fp16"),
    ],
)
def test_arithmetic(variation: str, precision: str, arithmetic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert arithmetic_of(variation, precision, monkeypatch).name == arithmetic


@pytest.mark.parametrize(("precision", "block_size"), [("q4_0", 32), ("q4_k_m", 128)])
def test_k_quants_round_activations_in_larger_blocks(
    precision: str, block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = arithmetic_of("llama-gqa", precision, monkeypatch).quantization
    assert how is not None
    assert how.block_size == block_size
