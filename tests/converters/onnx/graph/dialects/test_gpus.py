"""The graphs for GPUs compute what those for the CPU do: ONNX Runtime's CPU provider runs both, here in float32.

What providers make of them is in tests/fake_cuda and tests/validation/parity/test_graphs.py.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from support.chosen import MIXTURES_ON_GPUS, ON_GPUS
from support.execution import empty_state
from support.models import write_micro_model
from support.product import Logits, OnnxForm, Precision, PrecisionName, choose_precision
from support.variations import VARIATIONS

from converters.onnx import write_onnx

#: Where products of gate and up are one node; other widths take two.
WIDTH = 96
IDS = np.random.default_rng(0).integers(3, 60, (3, 9))
MASK = np.array([[1] * 9, [1] * 5 + [0] * 4, [1] + [0] * 8])


class Runner:
    """Prompts, steps and rows padded on the left, with a cache that grows."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.pasts = [item for item in self.session.get_inputs() if item.name.startswith("past")]

    def run(self, ids: NDArray[np.int64], mask: NDArray[np.int64], caches: Sequence[NDArray[np.float32]] = ()) -> list:
        past = caches or [empty_state(item, rows=len(ids)) for item in self.pasts]
        feeds = {"input_ids": ids, "attention_mask": mask}
        return self.session.run(None, feeds | {i.name: c for i, c in zip(self.pasts, past, strict=True)})

    def all_calls(self) -> Iterator[NDArray[np.float32]]:
        """Logits of a padded prompt, of a step, and of three more tokens of a single row."""
        logits, *caches = self.run(IDS, MASK)
        for row, length in enumerate(MASK.sum(1)):
            yield logits[row, : 1 if logits.shape[1] == 1 else length]
        grown = np.concatenate([MASK, np.zeros((3, 1), np.int64)], axis=1)
        grown[np.arange(3), MASK.sum(1)] = 1
        yield self.run(IDS[:, :1], grown, caches)[0]
        _, *caches = self.run(IDS[:1], MASK[:1])
        yield self.run(IDS[1:2, :3], np.ones((1, 12), np.int64), caches)[0]


def written(
    folder: Path, name: str, provider: Any, logits: Logits = "all", precision: Precision | None = None, **values: int
) -> Path:
    if not folder.joinpath("m").exists():
        write_micro_model(folder / "m", **{**VARIATIONS[name], "intermediate_size": WIDTH, **values})
    out = folder / f"{provider}-{logits}"
    out.mkdir()
    write_onnx(folder / "m", out, OnnxForm(precision or Precision(), "fused", logits, provider))
    return out / "model.onnx"


@pytest.mark.parametrize(
    ("name", "logits"), zip([*ON_GPUS, *MIXTURES_ON_GPUS], itertools.cycle(["all", "last"]), strict=False)
)
def test_they_compute_the_same(name: str, logits: Logits, tmp_path: Path) -> None:
    ours, other = (Runner(written(tmp_path, name, provider, logits)) for provider in ("cuda", "cpu"))
    for computed, wanted in zip(ours.all_calls(), other.all_calls(), strict=True):
        assert np.abs(computed - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize(("name", "logits"), [("llama-gqa", "all"), ("qwen3", "last"), ("phi3-all", "all")])
def test_a_row_with_padding_before_a_token_has_no_finite_logit(name: str, logits: Logits, tmp_path: Path) -> None:
    runner = Runner(written(tmp_path, name, "cuda", logits))
    ids, good = np.repeat(IDS[:1, :5], 2, 0), [(1,) * count + (0,) * (5 - count) for count in range(1, 6)]
    whole = runner.run(ids[:1], np.ones((1, 5), np.int64))[0][0]
    for mask in list(itertools.product((0, 1), repeat=5))[1:]:
        first, second = runner.run(ids, np.array([(1,) * 5, mask]))[0]
        np.testing.assert_allclose(first, whole, rtol=0, atol=1e-5)
        assert np.isfinite(second).all() if mask in good else not np.isfinite(second).any()


def test_tokens_beyond_the_positions_have_no_finite_logit(tmp_path: Path) -> None:
    """Where RotaryEmbedding rotates; GroupQueryAttention refuses a cache that is longer than its tables."""
    runner = Runner(written(tmp_path, "phi3-all", "cuda"))
    positions = 128
    ids = np.zeros((1, positions + 1), np.int64)
    assert np.isfinite(runner.run(ids[:, :positions], np.ones((1, positions), np.int64))[0]).all()
    assert not np.isfinite(runner.run(ids, np.ones_like(ids))[0]).any()


@pytest.mark.parametrize(
    ("name", "precision", "form", "width", "expected"),
    [
        ("llama-gqa", "fp32", {"provider": "cuda"}, 32, {"GatedRMSNorm": 3, "QuickGelu": 0}),
        ("llama-gqa", "fp32", {"provider": "cuda"}, 1536, {"GatedRMSNorm": 3, "QuickGelu": 0}),
        ("llama-gqa", "fp32", {"provider": "cuda"}, 41, {"GatedRMSNorm": 0, "QuickGelu": 3}),
        ("llama-gqa", "fp32", {}, WIDTH, {"GatedRMSNorm": 3}),
        ("llama-gqa", "int8", {}, WIDTH, {"GatedRMSNorm": 3}),
        ("llama-gqa", "int4", {}, WIDTH, {"QuickGelu": 3}),
        ("llama-gqa", "int4", {"symmetric": False}, WIDTH, {"GatedRMSNorm": 3}),
        ("afmoe", "fp32", {}, WIDTH, {"Sigmoid": 5}),  # three gates of attention, and two routers
    ],
)
def test_which_gates_are_one_node(
    name: str, precision: PrecisionName, form: Any, width: int, expected: dict[str, int], tmp_path: Path
) -> None:
    """Where threads have enough to do, and on WebGPU where weights are not symmetric levels of 4 bits."""
    asked = {"provider": "webgpu", **form}
    chosen = Precision() if asked["provider"] == "cuda" else choose_precision(precision, **asked)
    path = written(tmp_path, name, asked["provider"], precision=chosen, intermediate_size=width)
    counts = Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
    assert {kind: counts[kind] for kind in expected} == expected


def test_lent_keys_are_rotated_for_webgpu(tmp_path: Path) -> None:
    """Layers that attend to keys of another one get those of the call once more; the CPU's read its cache."""
    computed = []
    for provider in ("webgpu", "cpu"):
        runner = Runner(written(tmp_path, "gemma4-shared", provider))
        prompt, *caches = runner.run(IDS[:1], MASK[:1])
        computed.append([prompt, runner.run(IDS[1:2, :1], np.ones((1, 10), np.int64), caches)[0]])
    for ours, wanted in zip(*computed, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-4)


@pytest.mark.parametrize(("dtype", "exponent"), [("fp16", 15), ("bf16", 30)])
def test_the_epsilon_of_the_product_hides_the_mean(dtype: str, exponent: int, tmp_path: Path) -> None:
    """The scale is exact in the dtype, and undoes the epsilon's root."""
    graph = onnx.load(written(tmp_path, "llama-gqa", "cuda", "last", Precision(dtype))).graph  # type: ignore[arg-type]
    epsilon = next(
        a.f for node in graph.node if node.op_type == "GatedRMSNorm" for a in node.attribute if a.name == "epsilon"
    )
    scale = next(onnx.numpy_helper.to_array(i) for i in graph.initializer if i.name.startswith("gate_scale"))
    assert epsilon == 4.0**exponent
    assert set(scale.astype(np.float64)) == {2.0**exponent}
