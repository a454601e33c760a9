"""Writes a model by the builder of ONNX Runtime GenAI, and the head size of the cache into the graph's inputs.

    python genai_build.py MODEL_FOLDER CACHE_FOLDER OUT_FOLDER [algo_config=k_quant_mixed ...]

The builder declares the head size by a name, and says in genai_config.json alone what it is. Needs onnxruntime-genai,
onnx-ir, torch and transformers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx


def declare_head_size(folder: Path) -> None:
    """Writes the head size into the graph's inputs and outputs; the weights, in a file beside it, stay as they are."""
    config = json.loads((folder / "genai_config.json").read_text("utf-8"))
    path = folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4:
            dims[3].dim_value = config["model"]["decoder"]["head_size"]
    onnx.save(model, path)


def _main(model: str, cache: str, out: str, options: list[str]) -> None:
    command = [sys.executable, "-I", "-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu"]
    command += ["-i", model, "-o", out, "-c", cache, *(["--extra_options", *options] if options else [])]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    declare_head_size(Path(out))


if __name__ == "__main__":
    try:
        _main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
    except subprocess.CalledProcessError as error:
        sys.exit(error.stderr.decode("utf-8", "replace")[-2000:])
