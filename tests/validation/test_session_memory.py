"""What ONNX Runtime will take is judged from the graph, and refused before anything is computed if it does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.product import Compute, OnnxForm, choose_precision, open_session, write_onnx

from seap_export.errors import ArtifactError, EnvironmentFailure
from validation import session_memory
from validation.execution import Execution
from validation.parity.run import run_parity
from validation.prompts import Case
from validation.runtimes.onnx_runtime.onnx_runner import OnnxRunner
from validation.session_memory import Calls, calls_of, claim_memory
from validation.session_memory import session_memory as estimate

ONE = (Calls(1, 8, 16),)


def written(hf: Path, folder: Path, **form: Any) -> Path:
    folder.mkdir()
    write_onnx(hf, folder, OnnxForm(**form))
    return folder / "model.onnx"


@pytest.fixture
def model(micro_hf: Callable[..., Path], tmp_path: Path) -> Path:
    return written(micro_hf("Llama"), tmp_path / "onnx")


def matrices(model: Path) -> int:
    """Bytes of the matrices that are multiplied."""
    graph = onnx.load(model, load_external_data=False).graph
    products = {node.input[1] for node in graph.node if node.op_type in ("MatMul", "FusedMatMul")}
    return sum(4 * int(np.prod(t.dims)) for t in graph.initializer if t.name in products)


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(session_memory, "available_memory", lambda: size)


def test_every_matrix_is_copied_and_fp16_is_multiplied_in_float32_on_the_cpu(
    model: Path, micro_hf: Callable[..., Path], tmp_path: Path
) -> None:
    wide, large = estimate(model, ONE), matrices(model)
    assert large <= wide.copies <= large + 100_000  # norms and rotary tables
    half = written(micro_hf("Llama"), tmp_path / "fp16", precision=choose_precision("fp16"))
    assert estimate(half, ONE).largest == wide.largest
    assert (wide.can_map, estimate(half, ONE).can_map) == (True, False)
    assert estimate(half, ONE, "cuda").total < estimate(half, ONE).total


def test_what_unpacking_holds_at_once_counts(micro_hf: Callable[..., Path], tmp_path: Path) -> None:
    model = written(micro_hf("Llama"), tmp_path / "onnx", precision=choose_precision("w4a8"))
    graph = onnx.load(model, load_external_data=False).graph
    packed = {t.name: int(np.prod(t.dims)) for t in graph.initializer if t.data_type == onnx.TensorProto.INT4}
    assert packed
    unpacked = estimate(model, ONE).unpacked
    assert 3 * sum(packed.values()) <= unpacked <= 5 * sum(packed.values()) + 50_000  # scales
    large = replace(estimate(model, ONE), unpacked=10**9)
    assert 10**9 <= large.total <= 1.1 * 10**9


def test_each_size_of_a_call_counts(model: Path) -> None:
    less = Calls(2, 8, 16)
    for more in (Calls(8, 8, 16), Calls(2, 32, 16), Calls(2, 8, 64)):
        assert estimate(model, [less, more]).run == estimate(model, [more]).run > estimate(model, [less]).run


def test_the_calls_of_a_case() -> None:
    assert calls_of(Case("batch", ((1, 2, 3), (1,)), ((4, 5), (6, 7)))) == Calls(2, 3, 5)
    assert calls_of(Case("long", ((1, 2, 3, 4, 5),), ((6,),), call_tokens=2, kept=1)) == Calls(1, 2, 6)


def test_float32_that_does_not_fit_twice_stays_in_its_file_and_what_does_not_fit_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, estimate(model, ONE).without_copies)
    lines: list[str] = []
    assert claim_memory(model, ONE, say=lines.append) is True
    assert "every call" in lines[0]
    with pytest.raises(EnvironmentFailure):
        claim_memory(model, ONE, can_map=False)
    free(monkeypatch, 1000)
    with pytest.raises(EnvironmentFailure, match=rf"{model}.* of what is free.*seap-export convert"):
        claim_memory(model, ONE)
    free(monkeypatch, 2**40)
    with pytest.raises(EnvironmentFailure):
        claim_memory(model, ONE, Execution(compute=Compute(memory=1000)))


def test_a_mapped_session_computes_the_same(model: Path) -> None:
    ids = np.arange(3, 11)[None]
    copied, mapped = (OnnxRunner(open_session(model, mapped=mapped)).prefill(ids, [8]) for mapped in (False, True))
    assert np.abs(copied).max() > 0
    np.testing.assert_allclose(copied, mapped, atol=1e-4)


def test_on_a_gpu_its_own_memory_counts(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 1000)
    for known in ({"cuda": 2**40}, {}):  # the driver may not tell
        monkeypatch.setattr(session_memory, "free_device_memory", known.get)
        assert claim_memory(model, ONE, Execution("cuda")) is False
    monkeypatch.setattr(session_memory, "free_device_memory", {"cuda": 1000}.get)
    with pytest.raises(EnvironmentFailure, match="GPU"):
        claim_memory(model, ONE, Execution("cuda"))


def test_a_damaged_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ArtifactError, match="no such file"):
        claim_memory(path, ONE)
    path.write_bytes(b"\xff" * 9)
    with pytest.raises(ArtifactError, match="cannot be read"):
        claim_memory(path, ONE)


def test_parity_refuses_before_torch_runs(
    model: Path, micro_hf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 1000)
    monkeypatch.setattr("validation.parity.run.open_torch_runner", lambda *_: pytest.fail("torch was opened"))
    with pytest.raises(EnvironmentFailure, match="of what is free"):
        run_parity(micro_hf("Llama"), model.parent, ["the cat", "a dog sat", "one"])
