"""The model that torch exports: its trace is right for sizes it was not traced with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from validation.benchmarks.peers.contest import choose_passage, compare
from validation.benchmarks.peers.dynamo_writer import export_program, past_names, write_dynamo

pytestmark = pytest.mark.release  # torch's exporter takes its time


def test_the_trace_reads_any_sizes(dense: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32).eval()
    traced = export_program(model).module()
    tokens = torch.tensor([[5, 9, 3, 17, 40, 8, 11]])
    with torch.no_grad():
        expected = model(tokens).logits
        empty = [torch.zeros(1, 3, 0, 16) for _ in past_names(3)]
        logits, *cache = traced(tokens[:, :6], torch.ones(1, 6, dtype=torch.int64), empty)
        assert (logits - expected[:, :6]).abs().max() < 1e-4
        assert all(tensor.shape == (1, 3, 6, 16) for tensor in cache)
        logits, *cache = traced(tokens[:, 6:], torch.ones(1, 7, dtype=torch.int64), cache)
    assert (logits - expected[:, 6:]).abs().max() < 1e-4


def test_the_graph_agrees_with_ours(dense: Path, graphs: dict[str, Path], tmp_path: Path) -> None:
    write_dynamo(dense, tmp_path)
    passage = choose_passage(graphs["ours"], 1, vocabulary=96, prompt_tokens=8, steps=2)
    compare({"dynamo": tmp_path / "model.onnx"}, graphs["ours"], passage, threads=1, rounds=1, is_exact=True)
