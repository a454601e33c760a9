"""What ONNX Runtime will take is judged from the graph, and refused before anything is computed if it does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.product import Compute, OnnxForm, PrecisionName, choose_precision, open_session, write_onnx

from seap_export.errors import ArtifactError, EnvironmentFailure
from validation import session_memory
from validation.execution import Execution
from validation.parity.candidates.onnx_candidate import OnnxCandidate
from validation.parity.run import run_parity
from validation.prompts import Case
from validation.runtimes.onnx_runtime.onnx_runner import OnnxRunner
from validation.session_memory import Calls, calls_of, claim_memory
from validation.session_memory import session_memory as estimate

ONE = (Calls(1, 8, 16),)
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def write(micro_hf: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Write:
    """`write("fp16")`: the graph of a pruned Llama in that precision, made once."""

    @cache
    def written(precision: PrecisionName = "fp32") -> Path:
        folder = tmp_path_factory.mktemp("onnx")
        write_onnx(micro_hf("Llama"), folder, OnnxForm(precision=choose_precision(precision)))
        return folder / "model.onnx"

    return written


@pytest.fixture
def model(write: Write) -> Path:
    return write()


def elements(model: Path, is_wanted: Callable[[onnx.GraphProto, onnx.TensorProto], bool]) -> int:
    graph = onnx.load(model, load_external_data=False).graph
    return sum(int(np.prod(tensor.dims)) for tensor in graph.initializer if is_wanted(graph, tensor))


def is_multiplied(graph: onnx.GraphProto, tensor: onnx.TensorProto) -> bool:
    return any(node.op_type in ("MatMul", "FusedMatMul") and node.input[1] == tensor.name for node in graph.node)


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(session_memory, "available_memory", lambda: size)


def test_every_matrix_is_copied_and_fp16_is_multiplied_in_float32_on_the_cpu(write: Write) -> None:
    wide, half, large = estimate(write(), ONE), estimate(write("fp16"), ONE), 4 * elements(write(), is_multiplied)
    assert large <= wide.copies <= large + 100_000  # norms and rotary tables
    assert half.largest == wide.largest
    assert (wide.can_map, half.can_map) == (True, False)
    assert estimate(write("fp16"), ONE, "cuda").total < half.total


def test_what_unpacking_holds_at_once_counts(write: Write) -> None:
    packed = elements(write("w4a8"), lambda _, tensor: tensor.data_type == onnx.TensorProto.INT4)
    need = estimate(write("w4a8"), ONE)
    assert 0 < 3 * packed <= need.unpacked <= 5 * packed + 50_000  # scales
    assert 10**9 <= replace(need, unpacked=10**9).total <= 1.1 * 10**9


def test_each_size_of_a_call_counts(model: Path) -> None:
    less = Calls(2, 8, 16)
    for more in (Calls(8, 8, 16), Calls(2, 32, 16), Calls(2, 8, 64)):
        assert estimate(model, [less, more]).run == estimate(model, [more]).run > estimate(model, [less]).run
    assert calls_of(Case("batch", ((1, 2, 3), (1,)), ((4, 5), (6, 7)))) == Calls(2, 3, 5)
    assert calls_of(Case("long", ((1, 2, 3, 4, 5),), ((6,),), call_tokens=2, kept=1)) == Calls(1, 2, 6)


def test_float32_that_does_not_fit_twice_stays_in_its_file_and_what_does_not_fit_is_refused(
    model: Path, micro_hf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
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
    monkeypatch.setattr(OnnxCandidate, "torch", lambda *_: pytest.fail("torch was opened"))
    with pytest.raises(EnvironmentFailure, match="of what is free"):
        run_parity(micro_hf("Llama"), model.parent, ["the cat", "a dog sat", "one"])
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
