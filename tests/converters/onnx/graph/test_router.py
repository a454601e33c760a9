"""The router's graph computes softmax(weight @ mean embedding + bias), however prompts are batched and padded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from converters.onnx.graph import router as module
from converters.onnx.graph.router import fold_table, write_router_graph

VOCABULARY, HIDDEN = 50, 24


def random_router(classes: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, Any, Any]:
    generator = np.random.default_rng(0)
    embedding = torch.tensor(generator.normal(size=(VOCABULARY, HIDDEN)), dtype=dtype)
    return embedding, generator.normal(size=(classes, HIDDEN)), generator.normal(size=classes)


def written(folder: Path, classes: int) -> tuple[onnxruntime.InferenceSession, Any]:
    router = random_router(classes)
    write_router_graph(folder / "router.onnx", *router)
    return onnxruntime.InferenceSession(folder / "router.onnx", providers=["CPUExecutionProvider"]), router


def direct(router: tuple[torch.Tensor, Any, Any], ids: list[int]) -> Any:
    """The probabilities in float64, from the definition."""
    embedding, weight, bias = router
    logits = weight @ embedding.double().numpy()[ids].mean(axis=0) + bias
    return np.exp(logits) / np.exp(logits).sum()


def run(session: onnxruntime.InferenceSession, ids: Any, mask: Any) -> Any:
    return session.run(["probabilities"], {"input_ids": np.array(ids), "attention_mask": np.array(mask)})[0]


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_equals_the_definition(tmp_path: Path, classes: int) -> None:
    session, router = written(tmp_path, classes)
    for length in (1, 2, 40):
        ids = np.random.default_rng(length).integers(0, VOCABULARY, length)
        scores = run(session, [ids], np.ones((1, length), np.int64))
        assert (scores.shape, scores.dtype) == ((1, classes), np.float32)
        assert np.abs(scores[0] - direct(router, list(ids))).max() < 1e-6


def test_neither_the_batch_nor_the_padding_counts(tmp_path: Path) -> None:
    """Without a token all classes are equally likely."""
    session, router = written(tmp_path, 4)
    ids = [[4, 9, 9, 2, 7, 7], [7, 3, 49, 49, 49, 49], [1, 1, 8, 0, 0, 5], [5] * 6]
    mask = [[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 1], [0] * 6]
    scores = run(session, ids, mask)
    real = [[4, 9, 9, 2, 7, 7], [7, 3], [8, 0, 5]]
    assert np.abs(scores[:3] - [direct(router, row) for row in real]).max() < 1e-6
    alone = [run(session, [row], np.ones((1, len(row)), np.int64))[0] for row in real]
    assert np.abs(scores[:3] - alone).max() < 1e-6
    for empty in (scores[3:], run(session, np.full((2, 0), 5), np.zeros((2, 0), np.int64))):
        assert np.array_equal(empty, np.full((len(empty), 4), 0.25, np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_table_is_folded_in_blocks(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    embedding, weight, bias = random_router(3, dtype)
    widened: list[int] = []
    double = torch.Tensor.double
    monkeypatch.setattr(module, "_BLOCK_ROWS", 8)
    monkeypatch.setattr(torch.Tensor, "double", lambda tensor: widened.append(len(tensor)) or double(tensor))
    table = fold_table(embedding, weight, bias)
    monkeypatch.undo()
    assert widened == [8] * 6 + [2]
    assert (table.shape, table.dtype) == ((VOCABULARY, 3), np.float32)
    assert np.abs(table - (embedding.double().numpy() @ weight.T + bias)).max() < 1e-5


def test_the_file_is_whole_and_the_same_twice(tmp_path: Path) -> None:
    written(tmp_path, 3)
    (tmp_path / "again").mkdir()
    written(tmp_path / "again", 3)
    assert (tmp_path / "again" / "router.onnx").read_bytes() == (tmp_path / "router.onnx").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "router.onnx"]
    assert (tmp_path / "router.onnx").stat().st_size < 4 * 3 * VOCABULARY + 3000
    onnx.checker.check_model(tmp_path / "router.onnx", full_check=True)
