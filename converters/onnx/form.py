"""The form of an ONNX file: precision, dialect and logits, as recorded in the file's metadata."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from converters.form_options import FormOptions
from converters.mixed import average_bits
from converters.onnx.notes import read_notes
from converters.onnx.precision import (
    BLOCK_SIZE,
    INTEGERS,
    WAYS,
    BlockQuantization,
    Precision,
    PrecisionName,
    choose_precision,
    mixed_precision,
    refuse_dialect,
)
from seap_export.common.providers import OWN_FORMAT, PROVIDERS, WRITTEN_FOR, DialectName
from seap_export.errors import ArtifactError, UsageError

#: The positions for which a graph returns logits.
Logits = Literal["all", "last"]
#: Metadata key under which a graph records its form.
FORM_NOTE = "seap_export.form"
#: The options that describe blocks of quantised weights.
OF_BLOCKS = ("activations", "block_size", "asymmetric", "float_embeddings")


@dataclass(frozen=True)
class OnnxForm:
    """How a model is written as a graph.

    Attributes:
        precision: Dtype of the computation and storage of the weights.
        dialect: Set of operators.
        logits: Whether logits are returned for all positions or only for each row's last token.
        provider: Execution provider that the graph is written for; others may run it, too.
    """

    precision: Precision = Precision()
    dialect: DialectName = "fused"
    logits: Logits = "all"
    provider: str = "cpu"

    def __post_init__(self) -> None:
        choices = {"dialect": get_args(DialectName), "logits": get_args(Logits), "provider": WRITTEN_FOR}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}")

    def to_json(self) -> dict[str, Any]:
        grid = self.precision.quantization
        precision = {"dtype": self.precision.dtype, "quantization": None if grid is None else grid.to_json()}
        return asdict(self) | {"precision": precision}


def form_of(options: FormOptions, precision: str | None = None) -> OnnxForm:
    provider, dialect = options.provider, options.dialect or "fused"
    refuse_dialect(provider, dialect)
    name = cast(PrecisionName, precision or options.precision or PROVIDERS[provider].precision[dialect])
    idle = [option.replace("_", " ") for option in OF_BLOCKS if getattr(options, option)]
    average = average_bits(name, OWN_FORMAT, WAYS)
    if idle and not name.startswith("int"):
        why = "which are not quantised" if average is None else "whose blocks are chosen for each matrix"
        why = "whose products are of integers" if name in INTEGERS else why
        raise UsageError(f"no effect on {name} weights, {why}: {', '.join(idle)}; use --precision int8 or int4")
    if average is not None:
        return OnnxForm(mixed_precision(average, provider, dialect), dialect, options.logits or "last", provider)
    chosen = choose_precision(
        name,
        provider,
        dialect,
        activations=options.activations,
        block_size=options.block_size or BLOCK_SIZE,
        symmetric=not options.asymmetric,
        embeddings=not options.float_embeddings,
    )
    return OnnxForm(chosen, dialect, options.logits or "last", provider)


def read_form(model: Path) -> OnnxForm:
    """Reads the form of an .onnx file written by `write_onnx`; does not read its data file.

    Raises:
        ArtifactError: The file is missing or not an ONNX file, or its metadata record no form.
    """
    noted = read_notes(model)
    try:
        values = json.loads(noted[FORM_NOTE])
        precision = values.pop("precision")
        rounding = precision["quantization"]
        quantization = None if rounding is None else BlockQuantization(**rounding)
        return OnnxForm(Precision(precision["dtype"], quantization), **values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{model}: its metadata do not record its form; convert it again") from error
