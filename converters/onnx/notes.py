"""Reads what a graph's metadata say, without its data file."""

from __future__ import annotations

from pathlib import Path

import onnx

from seap_export.errors import ArtifactError


def read_notes(model: Path) -> dict[str, str]:
    """The metadata of an .onnx file.

    Raises:
        ArtifactError: The file is missing or not an ONNX file.
    """
    if not model.is_file():
        raise ArtifactError(f"{model}: no such file; export again")
    try:
        properties = onnx.load(model, load_external_data=False).metadata_props
    except Exception as error:  # errors of several packages: file system, protobuf
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{model}: cannot be read as ONNX ({reason}); convert again") from error
    return {entry.key: entry.value for entry in properties}
