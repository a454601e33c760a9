"""Compresses the weights of an OpenVINO model by NNCF: INT4_ASYM with AWQ and scale estimation on texts.

    python nncf_compress.py IR_FOLDER TEXTS.json OUT_FOLDER 0.8 [all_layers]

The number is NNCF's `ratio`, the share of the layers' weights that get 4 bits; the others get 8, as the embedding
and the head do, but for `all_layers`. Groups have 128 weights, or as many as divide a matrix. Needs nncf and openvino.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
from nncf.quantization.advanced_parameters import AdvancedCompressionParameters

_MODEL = "openvino_model.xml"


def _inputs(ids: list[int]) -> dict[str, np.ndarray]:
    row = np.array([ids], np.int64)
    return {
        "input_ids": row,
        "attention_mask": np.ones_like(row),
        "position_ids": np.arange(row.shape[1], dtype=np.int64)[None],
        "beam_idx": np.zeros(1, np.int32),
    }


def _main(folder: Path, texts: Path, out: Path, ratio: float, all_layers: bool) -> None:
    model = ov.Core().read_model(folder / _MODEL)
    compressed = nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_ASYM,
        ratio=ratio,
        all_layers=all_layers,
        dataset=nncf.Dataset(json.loads(texts.read_text("utf-8")), _inputs),
        awq=True,
        scale_estimation=True,
        advanced_parameters=AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST),
    )
    out.mkdir(parents=True, exist_ok=True)
    ov.save_model(compressed, out / _MODEL, compress_to_fp16=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]), "all_layers" in sys.argv[5:])
