"""The dense model that speed-ups are over, and the prompt that is timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from converters.format import Format
from converters.onnx.format import OnnxFormat
from converters.onnx.precision import choose_precision
from seap_export.common.providers import PROVIDERS
from seap_export.model.families import ModelSpec
from seap_export.pipeline.evaluation.speed import speed_request
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.request.measured import Measured


def baseline_format(formats: Sequence[Format]) -> Format:
    """The dense model that is timed: the first format in its first precision, or in its provider's first dtype."""
    first = formats[0]
    if not isinstance(first, OnnxFormat):
        return type(first)(first.precisions[0])
    form = first.form
    precision = choose_precision(PROVIDERS[form.provider].computes[form.dialect][0], form.provider, form.dialect)
    return OnnxFormat.of(replace(form, precision=precision))


def timed_depth(spec: ModelSpec, request: ExportRequest) -> int:
    """Tokens before the decode steps that an export times."""
    return speed_request(spec, Measured("", request.formats[0]), request.parity).depths[0]
