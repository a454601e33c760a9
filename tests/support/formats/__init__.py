"""Micro models written for OpenVINO and as scaled graphs, and what torch computes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from converters.onnx.form import OnnxForm
from converters.onnx.graph.decoder import decoder_graph
from converters.onnx.onnx_writer import DATA_FILE, MODEL_FILE
from converters.onnx.weights.scaling import Scaling
from converters.onnx.weights.weights import INLINE_BYTES, open_weights
from converters.openvino import OpenvinoFormat
from seap_export.model.families import ModelSpec, names
from seap_export.model.sources.config import read_spec
from support.execution import ONE_THREAD
from support.formats.written import WrittenModel
from support.models import write_source
from validation.runtimes.pytorch.torch_runner import Run, open_torch_runner

#: A prompt, a second call, and steps, one of which passes the 16 tokens at which the micro phi3 switches its tables.
PARTS = np.split(np.random.default_rng(0).integers(3, 96, 20), [6, *range(10, 20)])


def write_ir_model(
    folder: Path, variation: str, precision: str, *, pruned: bool = False, **values: Any
) -> WrittenModel:
    """Writes a micro model to `folder`/hf and `folder`/openvino."""
    return WrittenModel.of(OpenvinoFormat(precision), write_source(folder / "hf", variation, pruned=pruned, **values))


def torch_logits(source: Path) -> list[np.ndarray]:
    """Of each of `PARTS`, [tokens, vocabulary]."""
    with open_torch_runner(source, ONE_THREAD) as runner:
        (logits,) = runner.run([Run([part.tolist() for part in PARTS], 20)])
    return np.split(logits, np.cumsum([len(part) for part in PARTS])[:-1])


def every_exponent(spec: ModelSpec) -> Scaling:
    """A scaling of all that can be scaled, by another factor in each layer."""
    layers = range(len(spec.layers))
    outputs = {
        names.tensor(output, i): 1 + i + 2 * j for i in layers for j, output in enumerate(spec.layers[i].outputs)
    }
    scalable = [(one.output, i) for i in layers for one in spec.layers[i].sublayers if one.scalable is not None]
    return Scaling(3, outputs, {names.tensor(output, i): 2 + i for output, i in scalable})


def write_scaled_graph(model: Path, out: Path, form: OnnxForm) -> None:
    """As `write_onnx` does, with every exponent."""
    spec = read_spec(model)
    weights = open_weights(model, spec, form.precision)
    graph = decoder_graph(spec, weights, form, every_exponent(spec))
    ir.save(graph.build("test"), out / MODEL_FILE, external_data=DATA_FILE, size_threshold_bytes=INLINE_BYTES)
