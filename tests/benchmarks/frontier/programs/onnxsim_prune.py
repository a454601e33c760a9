"""Removes a share of the channels of every gated MLP of an ONNX graph by onnxsim, which ranks them on texts.

    python onnxsim_prune.py ONNX_FOLDER TEXTS.json OUT_FOLDER 0.2

It is onnxsim's `apply_structured_wanda_pruning`: the norm of a channel's weights times that of what flows through it.
It refits nothing. Files beside the graph are copied. Needs onnxsim, onnx and onnxruntime.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx

_MODEL, _DATA = "model.onnx", "model.onnx.data"


def inputs_of(graph: onnx.GraphProto, ids: list[int]) -> dict[str, np.ndarray]:
    """The graph's inputs for one text: its T tokens, and a cache [1, heads, 0, channels] without any."""
    named = {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids), dtype=np.int64)[None],
    }
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.input}
    return {
        name: named[name] if name in named else np.zeros((1, shape[1], 0, shape[3]), np.float32)
        for name, shape in shapes.items()
    }


def _main(folder: Path, texts: Path, out: Path, share: float) -> None:
    import onnxsim

    model = onnx.load(folder / _MODEL)
    data = [inputs_of(model.graph, ids) for ids in json.loads(texts.read_text("utf-8"))]
    pruned = onnxsim.apply_structured_wanda_pruning(model, calibration_data=data, sparsity=share)
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(f"{_MODEL}*", "SHA256SUMS"))
    onnx.save(pruned, out / _MODEL, save_as_external_data=True, location=_DATA)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
