"""Changing the files of models and artifacts in place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from seap_export.common.checksums import SUMS, checksums_text
from seap_export.common.hashing import sha256_file


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Rewrites a JSON file after `change` has had its object."""
    values = json.loads(path.read_text("utf-8"))
    change(values)
    path.write_text(json.dumps(values, indent=1) + "\n", "utf-8")


def set_json(path: Path, /, **values: Any) -> None:
    """Rewrites a JSON file with these values."""
    edit_json(path, lambda content: content.update(values))


def list_again(folder: Path) -> Path:
    """Makes the lists of files in a folder, as far as it has any, agree with the files, and returns it."""
    lists = sorted(folder.rglob(SUMS), key=lambda path: len(path.parts), reverse=True)
    for path in lists:
        inner = [other.parent for other in lists if path.parent in other.parent.parents]
        files = [file for file in path.parent.rglob("*") if file.is_file() and file != path]
        listed = [file for file in files if file in lists or not any(map(file.is_relative_to, inner))]
        names = {file.relative_to(path.parent).as_posix(): sha256_file(file) for file in listed}
        path.write_text(checksums_text(names), "utf-8")
    return folder


def record_again(out: Path) -> None:
    """Makes the lists and the manifest of an export agree with the files, as if they had been made so."""
    list_again(out)

    def change(manifest: dict[str, Any]) -> None:
        for name, entry in manifest["files"].items():
            path = out / name
            entry |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}

    edit_json(out / "manifest.json", change)


def edit_tensor(graph: Path, name: str, change: Callable[[NDArray[Any]], object]) -> None:
    """Changes a tensor of an ONNX graph in its data file, in place."""
    proto = onnx.load(graph, load_external_data=False)
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    location = {entry.key: entry.value for entry in tensor.external_data}
    dtype, shape = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type), tuple(tensor.dims)
    values = np.memmap(graph.with_name(location["location"]), dtype, "r+", int(location["offset"]), shape)
    change(values)
    values.flush()


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrites the safetensors file of a model folder after `change` has had its tensors."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
