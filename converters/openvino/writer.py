"""Writes a model folder as an IR of OpenVINO with its tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from converters.openvino.ir_file import write_ir
from converters.openvino.packages import require
from converters.openvino.stored_tensor import Storage
from converters.openvino.tensors import standard_graph
from converters.openvino.tokenizer import write_tokenizer
from converters.openvino.translate import translate
from converters.whole import whole_or_nothing

__all__ = ["write_openvino"]


def write_openvino(
    model_folder: Path, out_folder: Path, storage: Storage, on_layer: Callable[[int], None] | None = None
) -> None:
    """Writes a dense or pruned model for OpenVINO, OpenVINO GenAI and optimum-intel.

    The same input gives the same bytes with the same versions of OpenVINO's packages. Memory holds the graph, and of
    the weights one tensor at a time.

    Args:
        model_folder: Contains config.json, safetensors files and a tokenizer.
        out_folder: An existing, empty folder.
        storage: How weights are stored.
        on_layer: Called with a layer's index once all its weights are written.

    Raises:
        InputError: The model is damaged, has NaN or infinite weights, or weights too large for fp16.
        UsageError: The folder is not empty.
        EnvironmentFailure: A package of OpenVINO is missing, or the output cannot be written.
    """
    for name in ("openvino", "openvino_tokenizers"):
        require(name)
    with whole_or_nothing(out_folder):
        graph = standard_graph(model_folder, storage)
        tensors = [tensor for weight in graph.weights for tensor in weight.tensors]
        write_ir(translate(graph), tensors, out_folder, on_layer or (lambda _: None))
        write_tokenizer(model_folder, out_folder)
