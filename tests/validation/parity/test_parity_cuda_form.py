"""Graphs for CUDA pass parity on the CPU provider, which runs them without a GPU; broken ones do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper, numpy_helper
from support.execution import ONE_THREAD
from support.models import write_micro_model
from support.product import OnnxForm, PrecisionName, choose_precision, convert_folder, weight_differences
from support.variations import VARIATIONS

from converters.onnx.form import read_form
from converters.onnx.graph.dialects import POISON
from seap_export.errors import ParityFailure
from validation.parity.run import run_parity

PROMPTS = ("the cat sat on the mat and the dog sat on the cat", "a dog", "the mat and a cat sat on a dog")
#: Head norms and, with this width, products of gate and up in one node.
MODEL = {**VARIATIONS["qwen3"], "intermediate_size": 96, "hidden_size": 64}
Graph = onnx.GraphProto
PRECISIONS: tuple[PrecisionName, ...] = ("fp16", "int4")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of a model, `hf`, and of its graphs by their precision."""
    folder = tmp_path_factory.mktemp("cuda_form")
    write_micro_model(folder / "hf", **MODEL)
    for precision in PRECISIONS:
        (folder / precision).mkdir()
        form = OnnxForm(choose_precision(precision, "cuda"), "fused", "last", "cuda")
        convert_folder(folder / "hf", folder / precision, form)
    return folder


def reasons(hf: Path, folder: Path) -> list[str]:
    """Why the file is not what the model is: parity's reasons and the weights' differences."""
    try:
        failed = run_parity(hf, folder, PROMPTS, execution=ONE_THREAD, decode_steps=4).reasons
    except ParityFailure as error:
        failed = [str(error)]
    return [*failed, *weight_differences(hf, folder, read_form(folder / "model.onnx"))]


def test_sound_graphs_pass(written: Path) -> None:
    assert [reasons(written / "hf", written / precision) for precision in PRECISIONS] == [[], []]


def node(graph: Graph, name: str) -> onnx.NodeProto:
    return next(each for each in graph.node if each.name == name)


def _without_poison(graph: Graph) -> None:
    poison = node(graph, POISON)
    poison.op_type = "Identity"
    del poison.input[1:]


def _poison_of_the_second_column(graph: Graph) -> None:
    (tensor,) = (tensor for tensor in graph.initializer if tensor.name == "first_column")
    tensor.CopyFrom(numpy_helper.from_array(1 + numpy_helper.to_array(tensor), tensor.name))


def _gate_and_up_swapped(graph: Graph) -> None:
    gated = node(graph, "layers.1.mlp.gated")
    gated.input[0], gated.input[2] = gated.input[2], gated.input[0]


def _tokens_of_the_whole_row(graph: Graph) -> None:
    """The last token is counted from the start of the text, not of the call."""
    node(graph, "last_token.end").input[0] = node(graph, "mask.count").output[0]


def _padding_counted(graph: Graph) -> None:
    count = node(graph, "mask.count")
    ones = helper.make_node("Equal", ["attention_mask", "attention_mask"], ["planted.same"], "planted.same")
    cast = helper.make_node("Cast", ["planted.same"], ["planted.ones"], "planted.ones", to=onnx.TensorProto.INT64)
    count.input[0] = "planted.ones"
    index = list(graph.node).index(count)
    graph.node.insert(index, ones)
    graph.node.insert(index + 1, cast)


FAULTS = (
    _without_poison, _poison_of_the_second_column, _gate_and_up_swapped, _tokens_of_the_whole_row, _padding_counted,
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.__name__.strip("_") for fault in FAULTS])
def test_a_fault_is_stopped(written: Path, fault: Callable[[Graph], None], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(written / "fp16", tmp_path / "onnx"))
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    before = model.SerializeToString()
    fault(model.graph)
    assert model.SerializeToString() != before
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    assert reasons(written / "hf", folder)
