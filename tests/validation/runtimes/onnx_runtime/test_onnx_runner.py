"""The runner of parity: caches in shared buffers, prompts in several calls, rows padded on the left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.models import write_source
from support.product import OnnxForm, open_session

from converters.onnx import write_onnx
from converters.onnx.graph.dialects import HOLES_GUARD, MASK_GUARD, POISON
from seap_export.errors import ArtifactError
from validation.runtimes.onnx_runtime.onnx_runner import OnnxRunner

FUSED, STANDARD = OnnxForm(), OnnxForm(dialect="standard")
IDS = np.arange(5, 17, dtype=np.int64)[None]


def runner_of(hf: Path, folder: Path, form: OnnxForm = FUSED) -> OnnxRunner:
    write_onnx(hf, folder, form)
    return OnnxRunner(open_session(folder / "model.onnx", threads=1))


def test_a_graph_that_is_no_decoder_is_refused(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=r"inputs are not those of a decoder with a KV cache: \['x'\]"):
        OnnxRunner(open_session(tmp_path / "model.onnx"))


@pytest.mark.parametrize("form", [FUSED, STANDARD], ids=["fused", "standard"])
def test_a_prompt_in_calls_gives_what_it_gives_in_one(
    micro_hf: Callable[[str], Path], tmp_path: Path, form: OnnxForm
) -> None:
    runner = runner_of(micro_hf("Llama"), tmp_path, form)
    whole = runner.prefill(IDS, [12])
    if form is FUSED:  # whose cache is written in place
        with pytest.raises(ValueError, match="does not fit into a cache of 12"):
            runner.step([5])
    expected = [np.concatenate(list(part.values())) for part in runner.cache(0)]
    logits = [runner.prefill(IDS[:, :5], [5], room=7), runner.append(IDS[:, 5:9])]
    logits += [runner.step([token])[:, None] for token in IDS[0, 9:]]
    np.testing.assert_allclose(np.concatenate(logits, axis=1), whole, rtol=0, atol=1e-5)
    for layer, wanted in zip(runner.cache(0), expected, strict=True):
        np.testing.assert_allclose(np.concatenate(list(layer.values())), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("variation", "form"),
    [
        ("llama-gqa", FUSED),
        ("llama-gqa", OnnxForm(logits="last")),
        ("llama-gqa", OnnxForm(provider="cuda")),
        ("llama-gqa", OnnxForm(logits="last", provider="cuda")),
        ("lfm2-all", STANDARD),  # a gap that a convolution misreads
    ],
)
def test_a_sign_of_a_mask_that_would_be_misread_is_seen(variation: str, tmp_path: Path, form: OnnxForm) -> None:
    """An error, or logits that are not finite; without either, the row is taken."""
    source, folder = write_source(tmp_path / "hf", variation), tmp_path / "onnx"
    folder.mkdir()
    runner = runner_of(source, folder, form)
    assert not runner.misreads_masks()
    assert np.isfinite(runner.prefill(IDS, [12])).all()
    assert edited(folder, _without_sign).misreads_masks()


@pytest.mark.parametrize(
    ("variation", "form", "computed"),
    [
        ("llama-gqa", FUSED, 10 + 1 + 2 + 4),
        ("llama-gqa", OnnxForm(logits="last"), 10 + 1 + 2 + 4),
        ("llama-gqa", STANDARD, 3 * 14),  # its cache gives nothing back
        ("lfm2-all", FUSED, 3 * 14),  # nor does a convolution's state
    ],
)
def test_what_all_rows_begin_with_runs_once(
    variation: str, form: OnnxForm, computed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = write_source(tmp_path / "hf", variation), tmp_path / "onnx"
    folder.mkdir()
    whole, lengths = runner_of(source, folder, form), [11, 12, 14]
    sharing = OnnxRunner(open_session(folder / "model.onnx", threads=1), shares_start=True)
    ids = np.concatenate([np.tile(IDS[:, :10], (3, 1)), np.arange(20, 32).reshape(3, 4)], axis=1)
    expected, sizes, run = whole.prefill(ids, lengths, 2), [], OnnxRunner._run
    with monkeypatch.context() as patch:
        patch.setattr(OnnxRunner, "_run", lambda self, ids, mask: sizes.append(ids.size) or run(self, ids, mask))
        logits = sharing.prefill(ids, lengths, 2)
    assert sum(sizes) == computed
    for row, length in enumerate(lengths):
        last = slice(None) if form.logits == "last" else slice(length)
        np.testing.assert_allclose(logits[row, last], expected[row, last], rtol=0, atol=1e-5)
        for one, other in zip(sharing.cache(row), whole.cache(row), strict=True):
            assert all(one[state].shape == other[state].shape for state in other)
    for token in (5, 9):
        np.testing.assert_allclose(sharing.step([token] * 3), whole.step([token] * 3), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "relative"), [(TensorProto.FLOAT16, 2**-11), (TensorProto.BFLOAT16, 2**-8)])
def test_logits_of_16_bits_become_float32(
    micro_hf: Callable[[str], Path], tmp_path: Path, dtype: int, relative: float
) -> None:
    wanted = runner_of(micro_hf("Llama"), tmp_path).prefill(IDS, [12])

    def narrow(graph: onnx.GraphProto) -> None:
        last = next(node for node in graph.node if "logits" in node.output)
        last.output[list(last.output).index("logits")] = "wide"
        graph.node.append(helper.make_node("Cast", ["wide"], ["logits"], to=dtype))
        graph.output[0].type.tensor_type.elem_type = dtype

    logits = edited(tmp_path, narrow).prefill(IDS, [12])
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, wanted, rtol=relative, atol=0)


def edited(folder: Path, change: Callable[[onnx.GraphProto], None]) -> OnnxRunner:
    path = folder / "model.onnx"
    proto = onnx.load(path, load_external_data=False)
    change(proto.graph)
    return OnnxRunner(open_session(path, threads=1, graph=proto.SerializeToString()))


def _without_sign(graph: onnx.GraphProto) -> None:
    """Reads what guard or poison read instead of what they give."""
    sign = next(node for node in graph.node if node.name in (MASK_GUARD, HOLES_GUARD, POISON))
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == sign.output[0]:
                node.input[index] = sign.input[0]
    graph.node.remove(sign)
