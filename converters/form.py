"""The form of an ONNX file: its precision, its dialect and the logits that it gives; a file's metadata tell it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import onnx

from converters.dialects import DialectName
from converters.precision import BlockQuantization, Precision
from seap_export.errors import ArtifactError

__all__ = ["FORM_NOTE", "Logits", "OnnxForm", "read_form"]

#: Which positions' logits a graph gives.
Logits = Literal["all", "last"]
#: Where a graph's metadata tell its form.
FORM_NOTE = "seap_export.form"


@dataclass(frozen=True)
class OnnxForm:
    """How a model is written as a graph.

    Attributes:
        precision: What it computes in and stores.
        dialect: The operators that it is written in.
        logits: Whether it gives those of all positions or of each row's last token.
    """

    precision: Precision = Precision()
    dialect: DialectName = "fused"
    logits: Logits = "all"

    def __post_init__(self) -> None:
        for name, known in (("dialect", get_args(DialectName)), ("logits", get_args(Logits))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}")

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def read_form(model: Path) -> OnnxForm:
    """The form of an .onnx file that `write_onnx` wrote; its data file is not read.

    Raises:
        ArtifactError: It is no ONNX file, or its metadata do not tell a form.
    """
    if not model.is_file():
        raise ArtifactError(f"{model}: no such file; export again")
    try:
        properties = onnx.load(model, load_external_data=False).metadata_props
    except Exception as error:  # of several packages: the file system's, protobuf's
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{model}: cannot be read as ONNX ({reason}); convert again") from error
    noted = {entry.key: entry.value for entry in properties}
    try:
        values = json.loads(noted[FORM_NOTE])
        precision = values.pop("precision")
        how = precision["quantization"]
        quantization = None if how is None else BlockQuantization(**how)
        return OnnxForm(Precision(precision["dtype"], quantization), **values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{model}: its metadata do not tell how it was written; convert again") from error
