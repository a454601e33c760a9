"""Quantises a GGUF file by llama.cpp's own `llama_model_quantize`, as its `llama-quantize --imatrix` does.

    python llama_quantize.py MODEL.gguf IMPORTANCE.gguf OUT.gguf Q4_K_M [pure]

With `pure` the embedding and every other matrix get the type, as by `llama-quantize --pure`. Needs llama-cpp-python
and gguf.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np


def _means(path: Path) -> dict[str, np.ndarray]:
    """The mean square of each column of each matrix, float32, by the matrix's name."""
    tensors = {tensor.name: np.array(tensor.data, np.float32).ravel() for tensor in gguf.GGUFReader(path).tensors}
    ends = ".in_sum2"
    return {
        name.removesuffix(ends): values / tensors[name.removesuffix(ends) + ".counts"]
        for name, values in tensors.items()
        if name.endswith(ends)
    }


def _main(model: Path, importance: Path, out: Path, kind: str, pure: bool) -> int:
    means = _means(importance)
    matrices = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))()  # one without a name ends them
    for matrix, (name, values) in zip(matrices, means.items(), strict=False):
        matrix.name, matrix.size = name.encode(), len(values)
        matrix.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    parameters.nthread = int(os.environ.get("OMP_NUM_THREADS", "0"))
    parameters.imatrix, parameters.pure = matrices, pure
    out.parent.mkdir(parents=True, exist_ok=True)
    return int(llama_cpp.llama_model_quantize(os.fsencode(model), os.fsencode(out), ctypes.byref(parameters)))


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], "pure" in sys.argv[5:]))
