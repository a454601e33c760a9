"""Graphs whose scaling is given and not found in a trial."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from converters.onnx.decoder import decoder_graph
from converters.onnx.form import OnnxForm
from converters.onnx.onnx_writer import DATA_FILE, MODEL_FILE
from converters.onnx.scaling import Scaling
from converters.onnx.weights import open_weights
from seap_export.families import ModelSpec, model_spec, names
from seap_export.layers.halves import HALVES
from seap_export.sources.config import read_json


def every_exponent(spec: ModelSpec) -> Scaling:
    """A scaling of all that can be scaled, by another factor in each layer."""
    layers = range(len(spec.layers))
    outputs = {names.tensor(half, i): 1 + i + 2 * j for i in layers for j, half in enumerate(HALVES)}
    return Scaling(3, outputs, {names.tensor("down_proj", i): 2 + i for i in layers})


def write_scaled(model: Path, out: Path, form: OnnxForm, scaling: Scaling | None = None) -> None:
    """As `write_onnx` does, with every exponent if none is given."""
    spec = model_spec(read_json(model / "config.json"))
    weights = open_weights(model, spec, form.precision)
    graph = decoder_graph(spec, weights, form, scaling or every_exponent(spec))
    ir.save(graph.build("test"), out / MODEL_FILE, external_data=DATA_FILE, size_threshold_bytes=32)
