"""Writes a model folder as model.onnx and model.onnx.data, directly from the safetensors files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from converters.onnx.form import OnnxForm
from converters.onnx.graph.decoder import HEAD_DIM_MULTIPLE, decoder_graph
from converters.onnx.graph.dialects.looped import is_looped
from converters.onnx.weights.overflow import find_scaling
from converters.onnx.weights.scaling import Scaling
from converters.onnx.weights.weights import INLINE_BYTES, open_weights
from converters.progress import LayerProgress
from converters.whole import whole_or_nothing
from seap_export.common.json_file import read_json
from seap_export.common.providers import PROVIDERS
from seap_export.errors import InputError, UsageError
from seap_export.model.families import Attention, Experts, ModelSpec, model_spec
from seap_export.pruning.rounding.grid import BLOCK_SIZES

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
_PRODUCER = "seap-export"
_DEFAULT = OnnxForm()


def write_onnx(
    model_folder: Path,
    out_folder: Path,
    form: OnnxForm = _DEFAULT,
    *,
    on_layer: Callable[[int], None] | None = None,
    scaling: Scaling | None = None,
) -> None:
    """Writes a dense or pruned model as one ONNX graph for prefill and decode.

    Weights are read, checked and written tensor by tensor, in blocks of rows, so that memory holds the largest one as
    it is stored and, in int8 and int4, as it is written.
    The same input gives the same bytes. `scaling` is found where it is None. For inputs and outputs, see
    `converters.onnx.graph.decoder`.
    """
    config = read_json(model_folder / "config.json")
    spec = model_spec(config)
    refuse_unsupported(spec, form)
    weights = open_weights(model_folder, spec, form.precision)
    if scaling is None:
        is_narrow = form.precision.dtype == "fp16"
        scaling = find_scaling(config, spec, weights.reader, form.precision) if is_narrow else Scaling()
    model = decoder_graph(spec, weights, form, scaling).build(_PRODUCER)
    with whole_or_nothing(out_folder):
        _save(model, out_folder / MODEL_FILE, on_layer)


def refuse_unsupported(spec: ModelSpec, form: OnnxForm = _DEFAULT) -> None:
    """Rejects a model that cannot be written as a graph of this form."""
    grid = form.precision.quantization
    if grid is not None and form.dialect == "standard":
        raise UsageError("the standard dialect has no quantised weights; use the fused dialect, fp32 or fp16")
    columns = [spec.row_width(table) for table in spec.token_tables]
    fitting = [str(size) for size in BLOCK_SIZES if all(width % size == 0 for width in columns)]
    if grid is not None and grid.embeddings and fitting and str(grid.block_size) not in fitting:
        raise UsageError(
            f"the embedding's rows of {' and '.join(map(str, columns))} are not whole blocks of {grid.block_size}; "
            f"use block size {' or '.join(fitting)}, or leave the embedding and LM head unquantised (float embeddings)"
        )
    if not PROVIDERS[form.provider].caps_scores and any(one.softcap is not None for one in spec.all(Attention)):
        raise InputError(
            f"attention with a soft cap of its scores is not supported on {form.provider}, which computes it without; "
            "use the provider cpu"
        )
    if form.provider != "cpu":
        for experts in spec.all(Experts):
            _refuse_experts(experts, form)
    uneven = next((one.head_dim for one in spec.all(Attention) if one.head_dim % HEAD_DIM_MULTIPLE), None)
    if uneven is not None:
        raise InputError(
            f"head_dim {uneven} is not supported in ONNX; GroupQueryAttention needs a multiple of {HEAD_DIM_MULTIPLE}"
        )


def _refuse_experts(experts: Experts, form: OnnxForm) -> None:
    """Rejects mixtures of experts on GPUs that operators for them do not compute.

    On CUDA, the standard operators copy from the host in every call. Rounded experts are arranged anew when a graph is
    opened, which has never been compared with their weights.
    """
    if is_looped(experts):
        raise InputError(
            f"experts with the activation {experts.activation} are not supported on GPUs; use the provider cpu"
        )
    if form.precision.quantization is not None or form.dialect != "fused":
        raise InputError(
            "mixtures of experts run on GPUs in the fused dialect only, in fp32, fp16 or bf16; use these, or the "
            "provider cpu"
        )


def _save(model: ir.Model, path: Path, on_layer: Callable[[int], None] | None) -> None:
    tensors = [(name, value.const_value) for name, value in model.graph.initializers.items()]
    large = [name for name, tensor in tensors if tensor is not None and tensor.nbytes > INLINE_BYTES]
    progress = LayerProgress(large, on_layer or (lambda layer: None))  # the others are in the graph itself

    def on_tensor(tensor: Any, _: Any) -> None:
        progress.add(tensor.name)

    # A single thread: more would hold several tensors in memory and gain little, since the disk is the bottleneck.
    ir.save(model, path, external_data=DATA_FILE, size_threshold_bytes=INLINE_BYTES, callback=on_tensor)
