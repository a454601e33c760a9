"""Builds the graph of the standard dialect with weights as inputs, and the tensors that replace these in an IR."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor

from converters.onnx.form import OnnxForm
from converters.onnx.graph.decoder import decoder_graph
from converters.onnx.graph.linear import JOINED, joined_name
from converters.onnx.precision import Precision
from converters.onnx.weights.weights import LazyTensor, LazyWeights, open_weights
from converters.openvino.stored_tensor import Storage, StoredTensor, floats, integers
from seap_export.model.families import Attention, ModelSpec, names
from seap_export.model.sources.config import read_spec

_TRANSPOSED = ".transposed"
#: Tables of which tokens choose rows.
_TABLES = (names.tensor("embed_tokens"), names.tensor("layer_inputs"))


@dataclass(frozen=True)
class Weight:
    """An input of the graph that stands for numbers of the model.

    Attributes:
        shape: Shape of the numbers; of a matrix [out, in].
        is_transposed: Whether the graph has the matrix as [in, out].
    """

    input_name: str
    tensors: tuple[StoredTensor, ...]
    shape: tuple[int, ...]
    is_transposed: bool


@dataclass(frozen=True)
class Graph:
    """The ONNX graph of a decoder, and the weights that it has as inputs."""

    proto: bytes
    weights: tuple[Weight, ...]
    paged_heads: int | None


def standard_graph(model_folder: Path, storage: Storage) -> Graph:
    """Builds the graph of a model folder; no weights are read but vectors of up to 8 numbers."""
    spec = read_spec(model_folder)
    weights = open_weights(model_folder, spec, Precision())
    model = decoder_graph(spec, weights, OnnxForm(dialect="standard")).build("seap-export")
    graph, inputs, joined = model.graph, [], joined_parts(spec)
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if isinstance(tensor, LazyTensor | TorchTensor):  # others are constants of the graph
            del graph.initializers[name]
            value.const_value = None
            graph.inputs.append(value)
            inputs.append(_weight(name, tensor, weights, storage, joined))
    return Graph(ir.to_proto(model).SerializeToString(), tuple(_by_layer(inputs)), _paged_heads(spec))


def _by_layer(weights: Sequence[Weight]) -> list[Weight]:
    """The weights in the order of the layers, which is that of use but for what several layers use."""
    layers = [names.layer_of(weight.input_name) for weight in weights]
    first = next(index for index, layer in enumerate(layers) if layer is not None)
    places = [(layer is None and index > first, -1 if layer is None else layer) for index, layer in enumerate(layers)]
    return [weight for _, weight in sorted(zip(places, weights, strict=True), key=lambda pair: pair[0])]


def _paged_heads(spec: ModelSpec) -> int | None:
    attentions = [sublayer for layer in spec.layers for sublayer in layer.sublayers if isinstance(sublayer, Attention)]
    keeps_more = any({"conv", "recurrent"} & set(sublayer.states) for sublayer in spec.sublayers)
    is_windowed = any(attention.sliding_window is not None for attention in attentions)
    borrows = any(attention.cache_of is not None for attention in attentions)
    if (
        not attentions
        or keeps_more
        or borrows
        or is_windowed
        or any(rope.switches_at is not None for rope in spec.ropes)
    ):
        return None
    groups = max(attention.num_key_value_heads for attention in attentions)
    return groups * max(attention.num_attention_heads // attention.num_key_value_heads for attention in attentions)


def joined_parts(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """The tensors of the plain form whose rows follow each other in one constant, by its name."""
    joined = {}
    for index, layer in enumerate(spec.layers):
        for sublayer in layer.sublayers:
            for stored_as, some in JOINED.get(type(sublayer), {}).items():
                for named in (names.weight, names.bias):
                    parts = tuple(named(part, index) for part in sublayer.readers[some])
                    joined[joined_name(parts[0], stored_as)] = parts
    return joined


def _weight(
    name: str,
    tensor: ir.TensorProtocol,
    weights: LazyWeights,
    storage: Storage,
    joined: Mapping[str, tuple[str, ...]],
) -> Weight:
    stored_as = name.removesuffix(_TRANSPOSED)
    is_transposed = stored_as != name
    shape = tuple(int(size) for size in tensor.shape.numpy())
    if not is_transposed and stored_as not in _TABLES:
        return Weight(name, (floats(stored_as, shape, "f32", lambda: _pieces(tensor)),), shape, False)
    parts = joined.get(stored_as, (stored_as,))
    rows, columns = weights.shape(parts)
    grid = storage.rounding_of(parts[0], columns)
    if grid is None:
        tensor_of_floats = floats(
            stored_as, (rows, columns), storage.floats, lambda: iter(_read(weights, parts).values())
        )
        return Weight(name, (tensor_of_floats,), tensor_of_floats.shape, is_transposed)
    both = integers(stored_as, (rows, columns), grid, lambda: _joined(weights, parts))
    return Weight(name, both, (rows, columns), is_transposed)


def _pieces(tensor: ir.TensorProtocol) -> Iterator[torch.Tensor]:
    if isinstance(tensor, LazyTensor):
        yield from tensor.pieces()
    else:
        yield torch.from_numpy(tensor.numpy())


def _joined(weights: LazyWeights, parts: Sequence[str]) -> torch.Tensor:
    tensors = list(_read(weights, parts).values())
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _read(weights: LazyWeights, parts: Sequence[str]) -> Mapping[str, torch.Tensor]:
    read: Mapping[str, torch.Tensor] = weights.reader.read(parts)
    return read
