"""The standard dialect holds nothing but the standard, and ONNX's own evaluator computes what torch computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from support.product import BlockQuantization, Precision
from support.uneven import GRAPH_MODELS, PRUNED_LAYERS

from seap_export.errors import UsageError

MODELS = [*GRAPH_MODELS[1:3], ("qwen3", PRUNED_LAYERS)]
NAMES = [f"{family}-{index}" for index, (family, _) in enumerate(MODELS)]
IDS = np.random.default_rng(1).integers(3, 128, (3, 13))


@pytest.mark.parametrize(("family", "extra"), MODELS, ids=NAMES)
def test_the_reference_evaluator_agrees_with_torch(
    family: str, extra: dict[str, Any], written: Callable[..., Any]
) -> None:
    made = written(family, dialect="standard", **extra)
    model = onnx.load(made.folder / "model.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 23)]
    evaluator = ReferenceEvaluator(model)
    ids = IDS[:1]
    caches = {
        name: np.zeros((1, *kv), np.float32)
        for index, (heads, dim) in enumerate(made.kv_dims())
        for name, kv in (
            (f"past_key_values.{index}.key", (heads, 0, dim)),
            (f"past_key_values.{index}.value", (heads, 0, dim)),
        )
    }
    logits, *presents = evaluator.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids), **caches})
    assert np.abs(logits - made.truth(ids)).max() < 1e-4

    longer = np.concatenate([ids, IDS[1:2, :1]], axis=1)
    caches = dict(zip(caches, presents, strict=True))
    logits, *_ = evaluator.run(None, {"input_ids": longer[:, -1:], "attention_mask": np.ones_like(longer), **caches})
    assert np.abs(logits[:, 0] - made.truth(longer)[:, -1]).max() < 1e-4


@pytest.mark.parametrize(("family", "extra"), MODELS, ids=NAMES)
def test_padding_may_stand_on_the_left(family: str, extra: dict[str, Any], written: Callable[..., Any]) -> None:
    made = written(family, dialect="standard", **extra)
    lengths = [13, 4, 9]
    mask = (np.arange(13)[None] >= 13 - np.array(lengths)[:, None]).astype(np.int64)
    rows = [IDS[row : row + 1, 13 - length :] for row, length in enumerate(lengths)]
    logits, past = made.run(IDS, mask)
    for step in range(3):
        for row, history in enumerate(rows):
            assert np.abs(logits[row, -1] - made.truth(history)[0, -1]).max() < 1e-4
        new = IDS[:, step : step + 1]
        rows = [np.concatenate([row, token[None]], axis=1) for row, token in zip(rows, new, strict=True)]
        mask = np.concatenate([mask, np.ones((3, 1), np.int64)], axis=1)
        logits, past = made.run(new, mask, past)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_the_last_token_alone(side: str, written: Callable[..., Any]) -> None:
    lengths = np.array([13, 4, 9])
    columns = np.arange(13)[None]
    is_real = columns < lengths[:, None] if side == "right" else columns >= 13 - lengths[:, None]
    mask = is_real.astype(np.int64)
    whole = written("llama", dialect="standard")
    made = written("llama", dialect="standard", logits="last", folder="last")
    expected, past = whole.run(IDS, mask)
    logits, _ = made.run(IDS, mask)
    assert logits.shape == (3, 1, 128)
    for row, length in enumerate(lengths):
        last = length - 1 if side == "right" else 12
        assert np.abs(logits[row, 0] - expected[row, last]).max() < 1e-5
    mask = np.concatenate([mask, np.ones((3, 1), np.int64)], axis=1)
    expected, _ = whole.run(IDS[:, :1], mask, past)
    logits, _ = made.run(IDS[:, :1], mask, past)
    assert np.abs(logits - expected).max() < 1e-5


def test_quantised_weights_are_refused(written: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match=r"standard dialect.*; use the fused"):
        written("llama", precision=Precision("fp32", BlockQuantization(4)), dialect="standard")
