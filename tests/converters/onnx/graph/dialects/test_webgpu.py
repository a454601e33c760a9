"""The graphs for WebGPU; what the provider makes of them is in tests/validation/parity/test_graphs.py."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.models import write_micro_model
from support.product import OnnxForm, PrecisionName, choose_precision, open_session, write_onnx
from support.variations import VARIATIONS

from seap_export.common.providers import WrittenFor
from validation.runtimes.onnx_runtime.onnx_runner import OnnxRunner

IDS = np.random.default_rng(0).integers(3, 60, (1, 9))


def written(
    folder: Path, name: str, provider: WrittenFor = "webgpu", precision: PrecisionName = "fp32", **form: int
) -> Path:
    """A micro model in whose MLPs, and in whose attention, gates are wide enough for one node."""
    model = write_micro_model(folder / "m", **{**VARIATIONS[name], "intermediate_size": 96})
    out = folder / provider
    out.mkdir()
    write_onnx(model, out, OnnxForm(choose_precision(precision, provider, **form), provider=provider))
    return out / "model.onnx"


@pytest.mark.parametrize(
    ("name", "precision", "form", "expected"),
    [
        ("llama-gqa", "fp32", {}, {"GatedRMSNorm": 3}),
        ("llama-gqa", "int8", {}, {"GatedRMSNorm": 3}),
        ("llama-gqa", "int4", {}, {"QuickGelu": 3}),
        ("llama-gqa", "int4", {"symmetric": False}, {"GatedRMSNorm": 3}),
        ("afmoe", "fp32", {}, {"Sigmoid": 5}),  # three gates of attention, and two routers
    ],
)
def test_which_gates_are_one_node(
    name: str, precision: PrecisionName, form: dict[str, int], expected: dict[str, int], tmp_path: Path
) -> None:
    nodes = onnx.load(written(tmp_path, name, precision=precision, **form), load_external_data=False).graph.node
    counts = Counter(node.op_type for node in nodes)
    assert {kind: counts[kind] for kind in expected} == expected


def test_lent_keys_are_rotated(tmp_path: Path) -> None:
    """Layers that attend to keys of another one get those of the call once more; the CPU's read its cache."""
    computed = []
    for provider in ("webgpu", "cpu"):
        (folder := tmp_path / provider).mkdir()
        runner = OnnxRunner(open_session(written(folder, "gemma4-shared", provider), threads=1))
        computed.append([runner.prefill(IDS, [9], 10)[0, -1], runner.step([5])[0]])
    for ours, wanted in zip(*computed, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-4)
