"""The whole model, merely rounded, which every variant is measured beside: often it is the better file."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from converters.form_options import FormOptions
from converters.format import Format
from converters.formats import format_class
from seap_export.common.providers import OWN_FORMAT
from seap_export.errors import UsageError
from seap_export.model.families import ModelSpec
from seap_export.pipeline.request.export_request import VariantRequest
from seap_export.pipeline.request.measured import Measured
from seap_export.pipeline.request.mixtures import MixtureSpec
from seap_export.pruning.rounding.grid import BlockQuantization

#: The precisions that the whole model is rounded to.
PRECISIONS = ("int8", "int4")
#: Options of graphs that the whole model shares with the variants, since what runs it may need them.
_SHARED = ("logits", "dialect")


@dataclass(frozen=True)
class WholeModel:
    """The whole model in one precision, beside the variants of a task or mixture.

    Attributes:
        format: The format to write; None: there is none.
        refusal: Why there is none; "" if there is one.
    """

    mixture: MixtureSpec
    precision: str
    measured: Measured
    format: Format | None
    refusal: str = ""

    @property
    def name(self) -> str:
        return f"{self.mixture.name}-whole-{self.precision}"

    def grid(self, spec: ModelSpec) -> BlockQuantization | None:
        """The grid that the model is rounded to with the calibration texts; None: to the nearest level."""
        return None if self.format is None else self.format.grid(spec)


def whole_models(variants: Iterable[VariantRequest], learnt: Collection[str] = ()) -> tuple[WholeModel, ...]:
    """The whole models to measure beside variants: of each task and mixture, those that are no variant themselves.

    None beside variants that are measured in another format than our own, or on another provider than the CPU.

    Args:
        learnt: The tasks whose right answers variants learn.
    """
    asked = tuple(variants)
    unchanged = [one for one in asked if not one.ratio and one.vocabulary == "all"]
    are_whole = {(one.mixture.name, one.measured) for one in unchanged if not {*learnt} & {*one.mixture.weights}}
    models = {
        (one.mixture.name, precision): _whole_model(one.mixture, precision, one.measured)
        for one in asked
        if one.measured is not None and _is_own(one.measured.format)
        for precision in PRECISIONS
    }
    return tuple(
        model
        for (mixture, _), model in models.items()
        if model.format is None or (mixture, replace(model.measured, format=model.format)) not in are_whole
    )


def _is_own(format: Format) -> bool:
    return format.name == OWN_FORMAT and format.provider == "cpu"


def _whole_model(mixture: MixtureSpec, precision: str, measured: Measured) -> WholeModel:
    shared = {name: value for name, value in measured.format.options().items() if name in _SHARED}
    try:
        format = format_class(OWN_FORMAT).of_options(precision, replace(FormOptions(), **shared))
    except UsageError as error:
        return WholeModel(mixture, precision, measured, None, str(error))
    return WholeModel(mixture, precision, measured, format)
