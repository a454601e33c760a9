"""ONNX as a format: model.onnx and its data, the tokenizer and genai_config.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from converters.format import Format
from converters.onnx.folder import convert_folder, folder_damages, genai_config_of
from converters.onnx.form import OnnxForm, read_form
from converters.onnx.graph.graph import GRAPH_VERSION
from converters.onnx.onnx_writer import MODEL_FILE, refuse_unsupported
from converters.onnx.precision import PRECISIONS, BlockQuantization, choose_precision
from converters.onnx.read_back import GraphWeights
from converters.onnx.stored import weight_differences
from converters.onnx.weights.sizes import weight_bytes
from converters.onnx.weights.widths import float_tables, width_warning
from seap_export.errors import InputError
from seap_export.model.families import ModelSpec


@dataclass(frozen=True)
class OnnxFormat(Format):
    """An ONNX graph; see `converters.format.Format`.

    Attributes:
        precision: Of the weights.
        form: Precision, dialect, logits and provider of the graph.
    """

    name: ClassVar[str] = "onnx"
    runtimes: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    version: ClassVar[int] = GRAPH_VERSION
    form: OnnxForm = field(init=False)

    def __post_init__(self) -> None:
        # For the CPU where it computes in this precision.
        provider = "cuda" if self.precision == "bf16" else "cpu"
        precision = choose_precision(self.precision, provider)  # type: ignore[arg-type]
        object.__setattr__(self, "form", OnnxForm(precision, provider=provider))

    @classmethod
    def of(cls, form: OnnxForm) -> OnnxFormat:
        """The format of graphs of this form."""
        format = cls(form.precision.name)
        object.__setattr__(format, "form", form)
        return format

    @classmethod
    def read(cls, folder: Path) -> OnnxFormat:
        """By the graph's metadata."""
        return cls.of(read_form(folder / MODEL_FILE))

    def refusal(self, spec: ModelSpec, model_folder: Path) -> str | None:
        """Heads of a size that GroupQueryAttention does not take, or no EOS token, which GenAI needs."""
        try:
            refuse_unsupported(spec, self.form)
            genai_config_of(model_folder, spec, self.form)
        except InputError as error:
            return str(error)
        return None

    def remark(self, spec: ModelSpec) -> str | None:
        """An embedding that no blocks fit, and widths that the provider computes slowly."""
        return "; ".join(filter(None, (float_tables(spec, self.form), width_warning(spec, self.form)))) or None

    def size(self, spec: ModelSpec) -> int:
        """Of the data file."""
        return weight_bytes(spec, self.form.precision)

    def grid(self, spec: ModelSpec) -> BlockQuantization | None:
        """That of int4."""
        how = self.form.precision.quantization
        return how if how is not None and how.bits == 4 else None

    def settings(self) -> dict[str, Any]:
        return {"version": self.version, **self.form.to_json()}

    def write(self, model_folder: Path, out_folder: Path, on_layer: Callable[[int], None]) -> None:
        convert_folder(model_folder, out_folder, self.form, on_layer)

    def weights(self, folder: Path, spec: ModelSpec) -> GraphWeights:
        return GraphWeights(folder / MODEL_FILE, spec)

    def differences(self, model_folder: Path, folder: Path) -> Iterator[str]:
        return weight_differences(model_folder, folder, self.form)

    def damages(self, model_folder: Path, folder: Path) -> Iterator[str]:
        return folder_damages(model_folder, folder)
