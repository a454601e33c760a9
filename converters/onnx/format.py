"""ONNX as a format: model.onnx and its data, the tokenizer and genai_config.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from converters.form_options import FormOptions
from converters.format import Format
from converters.mixed import MIXED, average_bits
from converters.onnx.folder import convert_folder, genai_config_of
from converters.onnx.form import OF_BLOCKS, OnnxForm, form_of, read_form
from converters.onnx.graph.graph import GRAPH_VERSION
from converters.onnx.onnx_writer import MODEL_FILE, refuse_unsupported
from converters.onnx.precision import (
    BLOCK_SIZE,
    INTEGERS,
    PRECISIONS,
    WAYS,
    BlockQuantization,
    Precision,
    PrecisionName,
    choose_precision,
    mixed_precision,
)
from converters.onnx.read_back import GraphWeights
from converters.onnx.weights.scaling import read_scaling
from converters.onnx.weights.sizes import weight_bytes
from converters.onnx.weights.widths import float_tables, whole_blocks, width_warning
from seap_export.common.options import defaults_of
from seap_export.common.providers import OWN_FORMAT, OWN_RUNTIME, PROVIDERS
from seap_export.errors import InputError, UsageError
from seap_export.model.families import ModelSpec
from seap_export.pruning.plan.recipes import Target
from seap_export.pruning.rounding.grid import USUAL_AVERAGE, Way

#: Bytes of the nodes that unpack a matrix of few bits, and of its bits in rounding.json.
_UNPACKING = 2_150


@dataclass(frozen=True)
class OnnxFormat(Format):
    """An ONNX graph; see `converters.format.Format`.

    Attributes:
        form: Precision, dialect, logits and provider of the graph.
    """

    name: ClassVar[str] = OWN_FORMAT
    runtimes: ClassVar[tuple[str, ...]] = (OWN_RUNTIME,)
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    ways: ClassVar[tuple[Way, ...]] = WAYS
    version: ClassVar[int] = GRAPH_VERSION
    form: OnnxForm = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        # For the CPU where it computes in this precision.
        provider = "cuda" if self.precision == "bf16" else "cpu"
        average = average_bits(self.precision, self.name, WAYS)
        name = cast(PrecisionName, self.precision)
        precision = choose_precision(name, provider) if average is None else mixed_precision(average)
        object.__setattr__(self, "form", OnnxForm(precision, provider=provider))

    @classmethod
    def of(cls, form: OnnxForm) -> OnnxFormat:
        """The format that writes graphs of this form."""
        format = cls(form.precision.label)
        object.__setattr__(format, "form", form)
        return format

    @classmethod
    def of_options(cls, precision: str | None, options: FormOptions) -> OnnxFormat:
        """The format for the options' provider, in its best precision unless one is given, with the last logits."""
        if precision is not None and options.precision not in (None, precision):
            raise UsageError(
                f"--format {cls.name}:{precision} and --precision {options.precision} contradict each other; give one "
                "of them"
            )
        return cls.of(form_of(options, precision))

    @classmethod
    def each_of_options(cls, options: FormOptions, *, of_prompts: bool = False) -> Iterator[OnnxFormat]:
        """The format in each precision that the provider can run; options of blocks apply to int8 and int4 alone.

        The last is that of matrices with bits of their own. w8a8 and w4a8, as large as int8 and int4 and less exact,
        are there if prompts are to be fast.
        """
        if options.precision is not None:
            yield cls.of_options(None, options)
            return
        idle = {name: value for name, value in defaults_of(FormOptions).items() if name in OF_BLOCKS}
        usual = [name for name in PRECISIONS if of_prompts or name not in INTEGERS]
        for precision in (*usual, f"{MIXED}{USUAL_AVERAGE}"):
            with suppress(UsageError):
                yield cls.of_options(precision, options if precision.startswith("int") else replace(options, **idle))

    def options(self) -> dict[str, Any]:
        """The options that differ from the usual ones of the precision, and always the logits."""
        form, rounding, usual = self.form, self.form.precision.quantization, OnnxFormat(self.precision).form
        values: dict[str, Any] = {"logits": form.logits}
        if form.dialect != usual.dialect:
            values["dialect"] = form.dialect
        if rounding is None:
            return values
        if form.precision.dtype != usual.precision.dtype:
            values["activations"] = form.precision.dtype
        if rounding.block_size != BLOCK_SIZE:
            values["block_size"] = rounding.block_size
        if rounding.average is not None:
            return values
        differing = {"asymmetric": not rounding.symmetric, "float_embeddings": not rounding.embeddings}
        return values | {name: True for name, differs in differing.items() if differs}

    @property
    def provider(self) -> str:
        return self.form.provider

    @property
    def arithmetic(self) -> Precision:
        return self.form.precision

    @property
    def gives_last_logits(self) -> bool:
        return self.form.logits == "last"

    @property
    def target(self) -> Target:
        """The provider, the blocks that its kernels take whole, and whether attention shares keys in groups."""
        form = self.form
        return Target(form.provider, whole_blocks(form), groups_heads=form.dialect == "fused")

    @property
    def average(self) -> float | None:
        grid = self.form.precision.quantization
        return None if grid is None else grid.average

    @property
    def matrix_bytes(self) -> int:
        return 0 if self.average is None else _UNPACKING

    def mixed(self, average: float) -> OnnxFormat:
        precision = mixed_precision(average, self.form.provider, self.form.dialect)
        return self.of(replace(self.form, precision=precision))

    def uniform(self) -> OnnxFormat:
        if self.average is None:
            return self
        name = cast(PrecisionName, super().uniform().precision)
        return self.of(replace(self.form, precision=choose_precision(name, self.form.provider, self.form.dialect)))

    def plain(self) -> OnnxFormat:
        """The same form, but with weights in the first dtype of the provider, not quantised."""
        form = self.form
        dtype = PROVIDERS[form.provider].computes[form.dialect][0]
        return self.of(replace(form, precision=choose_precision(dtype, form.provider, form.dialect)))

    @classmethod
    def read(cls, folder: Path) -> OnnxFormat:
        return cls.of(read_form(folder / MODEL_FILE))

    def refusal(self, spec: ModelSpec, model_folder: Path) -> str | None:
        """Refuses head sizes that GroupQueryAttention does not take, and models without an EOS token for GenAI."""
        try:
            refuse_unsupported(spec, self.form)
            genai_config_of(model_folder, spec, self.form)
        except InputError as error:
            return str(error)
        return None

    def remark(self, spec: ModelSpec) -> str | None:
        """Says if no blocks fit the embedding, and if the provider computes some widths slowly."""
        return "; ".join(filter(None, (float_tables(spec, self.form), width_warning(spec, self.form)))) or None

    def size(self, spec: ModelSpec) -> int:
        return weight_bytes(spec, self.form.precision)

    def grid(self, spec: ModelSpec) -> BlockQuantization | None:
        grid = self.form.precision.quantization
        return grid if grid is not None and (grid.bits == 4 or grid.rows or grid.average is not None) else None

    def settings(self) -> dict[str, Any]:
        return {"version": self.version, **self.form.to_json()}

    def write(self, model_folder: Path, out_folder: Path, on_layer: Callable[[int], None]) -> None:
        convert_folder(model_folder, out_folder, self._form_of(model_folder), on_layer)

    def write_like(self, written: Path, model_folder: Path, out_folder: Path) -> None:
        """Writes it with the written graph's powers of two: any are right that all of a graph follows."""
        form, scaling = self._form_of(model_folder), read_scaling(written / MODEL_FILE)
        convert_folder(model_folder, out_folder, form, scaling=scaling)

    def _form_of(self, model_folder: Path) -> OnnxForm:
        """The form with the bits of each matrix that a rounded model has."""
        if (grid := self.mixed_grid(model_folder)) is None:
            return self.form
        return replace(self.form, precision=replace(self.form.precision, quantization=grid))

    def weights(self, folder: Path, spec: ModelSpec) -> GraphWeights:
        return GraphWeights(folder / MODEL_FILE, spec)
