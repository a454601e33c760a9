"""The baseline of speed-ups: the format of the dense model, the length of prompts, and this machine's pace."""

from __future__ import annotations

from collections.abc import Sequence

from converters.format import Format
from seap_export.model.families import ModelSpec
from seap_export.pipeline.budget.prompts import Prompts, operations_per_second
from seap_export.pipeline.evaluation.speed import speed_request
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.request.measured import Measured


def baseline_format(formats: Sequence[Format]) -> Format:
    """The dense model that is timed: the first format, without what makes it smaller or less exact."""
    return formats[0].plain()


def timed_depth(spec: ModelSpec, request: ExportRequest) -> int:
    """Tokens before the decode steps that an export times."""
    return speed_request(spec, Measured("", request.formats[0]), request.parity).depths[0]


def longest_prompt(spec: ModelSpec, request: ExportRequest) -> int:
    """The most tokens of a prompt that leave room for the decode steps which are timed after it."""
    return spec.max_position_embeddings - speed_request(spec, Measured("", request.formats[0]), request.parity).steps


def prompts_of(request: ExportRequest) -> Prompts | None:
    """The predictor of the time to the first token, at this machine's rates; None: no target asks for it."""
    return next((Prompts(tokens, operations_per_second()) for tokens in request.timed_prompts), None)
