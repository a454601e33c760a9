"""Which folder of a variant an export measures beside the dense model, and in which runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converters.format import Format
from seap_export.pipeline.folder.names import ONNX
from validation.runtimes.table import RUNTIMES, runtime_title

#: What is measured in if the folder `onnx` is written.
ONNX_RUNTIME = "onnxruntime"


@dataclass(frozen=True)
class Measured:
    """A folder that is measured in the first runtime of its format.

    Attributes:
        folder: Its name within a variant.
        format: Its format.
    """

    folder: str
    format: Format

    @property
    def runtime(self) -> str:
        """What runs it."""
        return self.format.runtimes[0]

    @property
    def is_onnx(self) -> bool:
        """Whether ONNX Runtime runs it, which has execution providers."""
        return self.runtime == ONNX_RUNTIME

    def to_json(self) -> dict[str, str]:
        """What reports and the manifest say about it."""
        return {"folder": self.folder, "runtime": self.runtime}


def measured_of(folders: Mapping[str, Format]) -> Measured | None:
    """The folder `onnx` if it is written, else the first one; None: none is written beside `hf`."""
    folder = ONNX if ONNX in folders else next(iter(folders), None)
    return None if folder is None else Measured(folder, folders[folder])


def measured_title(figures: Mapping[str, Any]) -> str:
    """What was measured, in words; figures that do not say it are those of ONNX files."""
    folder, runtime = figures.get("folder", ONNX), str(figures.get("runtime", ONNX_RUNTIME))
    title = runtime_title(runtime) if runtime in RUNTIMES else runtime  # a file that was changed may say anything
    return "the ONNX file" if folder == ONNX else f"{folder} in {title}"
